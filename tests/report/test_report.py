"""The page's content: the answer, what is missing, thumbnails, and what one file alone gives."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import pytest
from PIL import Image

from alexnet_edge.errors import InputError
from alexnet_edge.report import ReportSettings, make_page, numbers, render_html, render_markdown
from alexnet_edge.report.sources import read_sources, short_names
from tests.report.conftest import HOSTILE
from tests.results_files import samples


def answer_of(html):
    """The first sentence as plain text."""
    sentence = re.search(r'<p class="sentence">(.*?)</p>', html, re.DOTALL)[1]
    return re.sub(r"<[^>]+>", "", sentence)


def pair(p50=10.0, **changes):
    base = samples.full_row("alexnet.fp32.onnx", "fp32", p50=30.0, seed=1)
    return base, samples.full_row(p50=p50, seed=2) | changes


def test_the_answer_of_bench_and_parity(page):
    html, _ = page(samples.bench(*pair()), samples.parity(verdict="pass"))
    assert re.fullmatch(
        r"INT8 \(alexnet\.int8\.onnx\) is [23]\.\d\d× faster \(2\.\d\d–3\.\d\d\) and "
        r"4\.0× smaller than FP32 at batch 1, with 2\.5× less energy per inference; "
        r"accuracy verdict ✓ pass: drop \+0\.50 pp \(−0\.50 to \+1\.75\) on 400 images\.",
        answer_of(html),
    ), answer_of(html)


@pytest.mark.parametrize(
    ("p50", "said"),
    [(60.0, "× slower ("), (30.1, "shows no difference in speed"), (10.0, "× faster (")],
)
def test_slower_and_no_difference_are_said_as_they_are(page, p50, said):
    html, _ = page(samples.bench(*pair(p50)))
    assert said in answer_of(html)


def test_runs_on_other_machines_are_not_set_against_each_other(page):
    base, row = pair()
    here = samples.bench(base)
    elsewhere = samples.bench(row, environment=samples.MACHINE | {"cpu": "Other"})
    assert "faster" not in answer_of(page(here, elsewhere)[0])
    same_machine = samples.bench(row)
    assert "not in turns" in answer_of(page(here, same_machine)[0])


def test_it_says_what_engines_were_fed(page):
    base, row = pair()
    scenario = samples.SCENARIO | {"images_name": "photos/<val>"}
    html, markdown = page(samples.bench(base, row, scenario=scenario))
    assert "Input: 32 images of photos/&lt;val&gt;." in html
    assert "skips zeros" not in html
    synthetic = {"input": "synthetic", "input_images": 0, "input_sha256": None}
    base, row = base | synthetic, row | synthetic | {"depends_on_input": True}
    html, markdown = page(samples.bench(base, row))
    said = "Input: random values. alexnet.int8.onnx skips zeros, and takes another time on images."
    assert said in html
    assert "skips zeros" in markdown


def test_a_run_that_is_not_valid_is_flagged_before_the_answer(page):
    base, row = pair(valid=False, invalid_because=["throttled at 12 s"])
    html, markdown = page(samples.bench(base, row, valid=False, invalid_because=["throttled"]))
    assert html.index("Not a valid measurement") < html.index('class="sentence"')
    assert "from a measurement that is ✗ not valid" in answer_of(html)
    assert markdown.index("**Not a valid measurement**") < markdown.index("faster")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"engines": [samples.minimal_row()], "environment": {}},
         "alexnet.int8.onnx takes 10.0 ms (9.90–10.1) at the median"),
        (samples.parity(labelled=0, reference=None, engine=None, drop_pp=None, flips=None,
                        drop_ci95_pp=None, mcnemar_p=None, per_class=[]),
         "agreement 99.00 % on 400 images without labels"),
        (samples.camera(), "22.4 frames/s, answers 39.5 ms old at the median and 77.5 ms at p99"),
        ({"model_sha256": "a", "tensors": {"input": {"minmax": {"amax": 1.0}}}},
         "None of these files holds a measurement"),
    ],
)  # fmt: skip
def test_each_kind_alone_gives_a_page(page, value, said):
    html, markdown = page(value)
    assert said in answer_of(html)
    assert said.split(" (")[0].split("alexnet.int8.onnx ")[-1] in markdown
    assert "Not in these results" in html


def test_the_least_keys_give_plots_and_name_what_is_missing(page):
    rows = [samples.minimal_row(f"{p}.onnx", p, b) for p in ("fp32", "int8") for b in (1, 4)]
    html, _ = page({"engines": rows, "environment": {}})
    assert html.count('<div class="plot"') == 3
    for missing in ("Energy: no sensor", "Time layer by layer", "Accuracy: give", "A histogram"):
        assert missing in html
    assert "A batch sweep" not in html


def test_what_is_there_is_not_said_to_be_missing(everything):
    html = everything.html
    missing = html[html.index('<h2 id="missing">') :]
    for what in ("Energy", "layer by layer", "histogram", "sweep", "Class by class", "speed-up"):
        assert what not in missing


def test_the_page_is_small_has_no_script_and_fetches_nothing(everything):
    html = everything.html
    assert len(html.encode()) < 1_000_000
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert "url(http" not in html


@pytest.mark.parametrize("name", HOSTILE[:3])
def test_no_name_becomes_markup(hostile, name):
    html, markdown = hostile
    assert name not in html
    assert name.replace("<", "&lt;").split(">")[0].split('"')[0] in html
    for line in markdown.splitlines():
        outside = re.sub(r"(`+)(?:(?!\1).)+\1", "", line)
        assert not re.search(r"<(?:script|img|svg)", outside), line


def test_markdown_keeps_its_tables_and_notifies_nobody(hostile):
    _, markdown = hostile
    tables = re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table
    outside = re.sub(r"(`+)(?:(?!\1).)+\1", "", markdown)
    assert "@everyone" not in outside


def test_half_a_surrogate_pair_does_not_stop_the_page(page):
    html, markdown = page(samples.bench(samples.full_row("half\ud800.onnx")))
    html.encode()
    markdown.encode()


# Thumbnails --------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "val"
    (folder / "3").mkdir(parents=True)
    for at in range(3):
        Image.new("RGB", (320, 200), (80 * at, 0, 0)).save(folder / "3" / f"{at}.png")
    (folder / "3" / "3.png").write_bytes(b"no image")
    (tmp_path / "secret.png").write_bytes((folder / "3" / "0.png").read_bytes())
    return folder


def test_thumbnails_are_small_jpegs_and_missing_ones_are_named(page, photos):
    html, _ = page(samples.parity(), images=str(photos))
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) == 6  # three of the worst, three of the four that changed
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            assert (image.format, image.size) == ("JPEG", (96, 60))
    missing = html[html.index('<h2 id="missing">') :]
    assert "Pictures of 3/3.png" in missing
    assert "cannot identify" in missing or "not an image" in missing or "3.png:" in missing


def test_images_are_looked_for_where_parity_found_them(page, photos):
    html, _ = page(samples.parity(images_name=str(photos)))
    assert html.count("data:image/jpeg") == 6
    html, _ = page(samples.parity(images_name=str(photos / "gone")))
    assert "no such folder" in html[html.index('<h2 id="missing">') :]


def test_a_name_cannot_reach_out_of_the_folder(page, photos):
    worst = [{"image": name, "max_abs": 1.0} for name in ("../secret.png", str(photos / "3/0.png"))]
    html, _ = page(samples.parity(worst=worst, flipped=[]), images=str(photos))
    assert "data:image/jpeg" not in html


def test_the_bundled_digits_have_pictures(page):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    worst = [{"image": "digits/0004", "max_abs": 1.0}]
    html, _ = page(samples.parity(worst=worst, flipped=[], images_name="digits:val"))
    assert html.count("data:image/jpeg") == 1


# Parts -------------------------------------------------------------------------------------------


def test_the_front_is_found_where_no_file_states_it(page):
    rows = [
        samples.full_row(f"{name}.onnx", "fp32" if name == "a" else "int8", p50=p50, seed=at)
        | {"size_bytes": size}
        for at, (name, p50, size) in enumerate((("a", 30, 4), ("b", 10, 1), ("c", 12, 2)))
    ]
    parities = [
        samples.parity(engine_path=f"{row['engine']}", engine={"top1": top1, "top5": 1.0})
        for row, top1 in zip(rows, (0.95, 0.94, 0.93), strict=True)
    ]
    _, markdown = page(samples.bench(*rows), *parities)
    section = markdown[markdown.index("## Size, speed and accuracy") :]
    marks = dict(re.findall(r"\| `(\w)\.onnx` \|.*\| (✅ yes|no) \|", section))
    assert marks == {"a": "✅ yes", "b": "✅ yes", "c": "no"}


def test_where_answers_part_is_named(everything):
    section = everything.markdown[everything.markdown.index("**Stage by stage, on 8 images**") :]
    assert "| `engine` | `Q/DQ graph` | 0.500 | 12.0 dB | `at least 25 dB` | ❌ no |" in section
    assert "Answers part first at: engine." in section


def test_engines_of_one_precision_are_told_apart_by_their_files(tmp_path):
    rows = [samples.full_row(name) for name in ("a.onnx", "b.onnx")]
    sources = read_sources([samples.write(tmp_path / "b.json", samples.bench(*rows))])
    assert list(short_names(sources).values()) == ["a.onnx", "b.onnx"]
    fast = [samples.full_row("a.onnx", "fp32"), samples.full_row("b.onnx", batch=4)]
    sources = read_sources([samples.write(tmp_path / "b.json", samples.bench(*fast))])
    assert list(short_names(sources).values()) == ["FP32", "INT8"]


def test_many_classes_and_layers_are_cut_with_a_note(page):
    classes = [dict(samples.parity()["per_class"][0], **{"class": f"class {at}", "drop_pp": at / 9})
               for at in range(1000)]  # fmt: skip
    html, _ = page(samples.parity(per_class=classes))
    assert "The 30 classes that changed most, of 1000." in html
    assert "class 999" in html
    assert "class 500" not in html
    assert len(html) < 400_000


def test_no_results_and_unknown_ones_are_errors(tmp_path):
    with pytest.raises(InputError, match="needs results"):
        make_page([])
    with pytest.raises(InputError, match=r"x\.json"):
        make_page([samples.write(tmp_path / "x.json", {"weather": "fine"})])


def test_the_same_page_twice_is_the_same(everything):
    again = make_page(everything.paths, ReportSettings(history=everything.history))
    assert render_html(again) == everything.html
    assert render_markdown(again) == everything.markdown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.6718, "0.672"), (14.7146, "14.7"), (9.996, "10.0"), (333.9, "334"),
        (1234.5, "1,230"), (0.00835, "0.00835"), (-2.44, "−2.44"), (5.84e7, "5.84e+07"),
        (99.96, "100"), (0.09999, "0.100"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_that_mean_something(value, text):
    assert numbers.significant(value) == text


def test_a_change_that_rounds_to_nothing_has_no_sign():
    assert numbers.signed(-0.0001) == "0.00"
    assert numbers.points(0.5) == "+0.50 pp"
