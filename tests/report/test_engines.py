"""Results are put together only where they are of one engine, and engines are told apart."""

from __future__ import annotations

import re

import pytest

from alexnet_edge.report.sources import read_sources
from tests.report.test_report import answer_of, pair
from tests.results_files import samples

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
INT8 = "alexnet.int8.onnx"


def tile_of(html):
    """The tile of the verdict as plain text."""
    tile = re.search(r"<dt>Accuracy verdict</dt>(.*?)</div>", html, re.DOTALL)
    return None if tile is None else re.sub(r"<[^>]+>", "", tile[1])


def sentences_of(html):
    found = re.findall(r'<p class="sentence">(.*?)</p>', html, re.DOTALL)
    return [re.sub(r"<[^>]+>", "", sentence) for sentence in found]


def hashes(engine, model):
    return {"engine_sha256": engine, "model_sha256": model}


@pytest.mark.parametrize(
    ("of_bench", "of_parity", "joined"),
    [
        ({}, {}, True),
        (hashes(A, A), hashes(A, A), True),
        (hashes(A, A), hashes(B, A), False),
        (hashes(A, A), hashes(None, A), True),
        (hashes(None, A), hashes(B, B), False),
        (hashes("", ""), hashes(B, B), True),
        (hashes(A, A), hashes(A, A) | {"engine_path": "renamed.onnx"}, True),
        (hashes(None, A), hashes(None, A) | {"engine_path": "other.onnx"}, False),
    ],
)
def test_an_answer_joins_what_is_of_one_engine(page, of_bench, of_parity, joined):
    base, row = pair()
    models = {"model_sha256": of_bench.get("model_sha256")}
    html, markdown = page(
        samples.bench(base | models, row | models | of_bench), samples.parity(**of_parity)
    )
    assert ("accuracy verdict" in answer_of(html)) == joined
    assert len(sentences_of(html)) == (1 if joined else 2)
    assert ("## Size, speed and accuracy" in markdown) == joined
    assert (tile_of(html) is not None) == joined


def test_one_name_for_two_builds_is_told_apart_by_their_hashes(page):
    base, row = pair()
    html, _ = page(samples.bench(base, row | hashes(B, A)), samples.parity(**hashes(C, A),
                   engine_path=INT8))  # fmt: skip
    first, second = sentences_of(html)
    assert first.startswith("INT8 (alexnet.int8.onnx (bbbbbbbb)) is")
    assert second.startswith("alexnet.int8.onnx (cccccccc): accuracy verdict")


def test_engines_of_other_models_are_never_a_base(page):
    base, row = pair()
    html, _ = page(samples.bench(base | {"model_sha256": B}, row))
    assert "faster" not in answer_of(html)
    html, _ = page(samples.bench(base | {"model_sha256": None}, row))
    assert "faster" in answer_of(html)
    checkpoint = base | {"runtime": "torch", "model_sha256": B}  # of a file that is no graph
    assert "faster" in answer_of(page(samples.bench(checkpoint, row))[0])


def test_the_base_of_the_same_model_is_chosen(page):
    base, row = pair()
    other = samples.full_row("signs.fp32.onnx", "fp32", p50=99.0, seed=7) | {"model_sha256": B}
    html, _ = page(samples.bench(other, row, base))
    assert re.search(r"is [23]\.\d+× faster", answer_of(html))


def test_the_tile_is_of_the_engine_that_leads_and_names_it(page):
    base, row = pair()
    parities = [
        samples.parity(engine_path="slow.onnx", verdict="fail", drop_pp=9.0),
        samples.parity(engine_path=INT8, verdict="pass"),
    ]
    html, _ = page(samples.bench(base, row), *parities)
    assert tile_of(html) == "✓ passalexnet.int8.onnx: drop +0.50 pp, margin 1 pp"
    html, _ = page(samples.bench(base, row), parities[0])
    assert tile_of(html) is None, "nothing is known of the engine that leads"
    html, _ = page(samples.bench(base, row), parities[1])
    assert tile_of(html) == "✓ passdrop +0.50 pp, margin 1 pp"


def test_of_several_results_the_valid_and_the_later_answers(page):
    base, row = pair()
    invalid = {"valid": False, "invalid_because": ["throttled"]}
    slow = samples.full_row(p50=15.0, seed=5)
    later = samples.bench(base, slow)
    assert "is 2.0" in answer_of(page(samples.bench(base, row), later)[0])
    html, _ = page(samples.bench(base, row), samples.bench(base, slow | invalid))
    assert len(sentences_of(html)) == 1
    assert re.search(r"is (3\.0|2\.9)\d?× faster", answer_of(html))
    assert "not valid" not in answer_of(html)


def test_the_last_parity_of_an_engine_answers(page):
    first, second = samples.parity(verdict="fail", drop_pp=9.0), samples.parity(verdict="pass")
    html, _ = page(samples.bench(*pair()), first, second)
    assert "✓ pass" in answer_of(html)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.onnx", "b.onnx"], ["a.onnx", "b.onnx"]),
        (["x/a.onnx", "y/a.onnx"], ["x/a.onnx", "y/a.onnx"]),
        (["1/x/a.onnx", "2/x/a.onnx"], ["1/x/a.onnx", "2/x/a.onnx"]),
        (["1/x/a.onnx", "1/y/a.onnx"], ["x/a.onnx", "y/a.onnx"]),
        (["C:\\x\\a.onnx", "C:\\y\\a.onnx"], ["x/a.onnx", "y/a.onnx"]),
        (["a.onnx", "./a.onnx", "out/a.onnx"], ["a.onnx"] * 3),
        (["a.onnx", "x/a.onnx", "y/a.onnx"], ["a.onnx", "x/a.onnx", "y/a.onnx"]),
        (["/a.onnx", "/x/a.onnx"], ["/a.onnx", "x/a.onnx"]),
    ],
)
def test_an_engine_is_named_by_as_much_of_its_path_as_it_takes(tmp_path, paths, names):
    rows = [samples.minimal_row(path) for path in paths]
    sources = read_sources([samples.write(tmp_path / "b.json", samples.bench(*rows))])
    assert [sources.engine(row) for row in sources.bench] == names


def test_engines_of_one_name_stand_in_tables_and_plots_by_their_folders(page):
    base, row = pair()
    rows = [row | {"engine": f"{folder}/{INT8}"} for folder in ("minmax", "entropy")]
    html, markdown = page(samples.bench(base, *rows), samples.parity(engine_path=f"entropy/{INT8}"))
    for folder in ("minmax", "entropy"):
        assert f"| `{folder}/{INT8}` | 1 |" in markdown
        assert any(told.startswith(f"INT8 ({folder}/{INT8})") for told in sentences_of(html))
    plots = re.sub(r"\s+", " ", " ".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL)))
    assert "minmax/alexnet.int8.onnx" in plots
    assert tile_of(html) is None


def test_the_same_bytes_count_once(page):
    html, markdown = page(samples.bench(*pair()), samples.bench(*pair()))
    assert "Given more than once, and counted once: result1.json." in html
    latency = markdown[markdown.index("**Latency of one") : markdown.index("**Beside FP32")]
    assert latency.count("`alexnet.int8.onnx`") == 1
