"""The change between two runs: paired rightly, refused where unlike, judged by its interval."""

from __future__ import annotations

import copy

import pytest

from alexnet_edge.compare import Bounds, describe_run
from alexnet_edge.errors import InputError
from tests.results_files import samples


def changes_of(result, pair=0):
    return {change.figure: change for change in result.pairs[pair].changes}


def test_a_faster_engine_is_faster_in_every_figure(compare):
    first = samples.bench(samples.full_row(p50=10, seed=1))
    second = samples.bench(samples.full_row(p50=8, seed=2))
    found = changes_of(compare(first, second))
    for figure in ("p50", "p90", "p99", "mean", "throughput"):
        assert found[figure].verdict == "faster", figure
        assert found[figure].low < found[figure].change < found[figure].high
    assert found["p50"].change == pytest.approx(-20, abs=3)
    assert found["throughput"].change == pytest.approx(25, abs=4)
    assert (found["p50"].basis, found["p90"].basis) == ("turns", "samples")


def test_the_figures_are_the_files_own(compare):
    first, second = samples.full_row(seed=1), samples.full_row(seed=2)
    found = changes_of(compare(samples.bench(first), samples.bench(second)))
    assert found["p50"].first == first["latency_ms"]["p50"]
    assert found["p50"].second == second["latency_ms"]["p50"]
    assert found["p50"].change == pytest.approx(
        100 * (second["latency_ms"]["p50"] / first["latency_ms"]["p50"] - 1)
    )


def test_the_same_machine_twice_shows_no_change(compare):
    seen = 0
    for seed in range(20):
        first = samples.bench(samples.full_row(seed=2 * seed))
        second = samples.bench(samples.full_row(seed=2 * seed + 1))
        seen += changes_of(compare(first, second))["p50"].verdict != "no change seen"
    assert seen <= 4  # 1 is expected; more than 4 happen once in 400


def test_size_is_exact_and_energy_without_an_error_is_not_judged(compare):
    larger = samples.full_row() | {"size_bytes": 58_000_001, "energy_j_per_inference": 0.09}
    found = changes_of(compare(samples.bench(samples.full_row()), samples.bench(larger)))
    assert found["size"].verdict == "larger"
    assert found["size"].low == found["size"].high == found["size"].change > 0
    assert found["energy"].verdict == "not judged: no interval"
    assert found["energy"].low is None


def test_files_with_the_least_keys_compare(compare):
    old = {"engines": [samples.minimal_row()], "environment": {}}
    new = {"engines": [samples.minimal_row(p50=12)], "environment": {}}
    found = changes_of(compare(old, new))
    assert found["p50"].verdict == "slower"
    assert found["p99"].verdict == "not judged: no interval"


# Pairing -----------------------------------------------------------------------------------------


def test_rows_are_paired_by_engine_and_batch_whatever_their_order(compare):
    rows = [
        samples.full_row(batch=batch, engine=f"{name}.onnx", precision=name, p50=batch)
        for name in ("fp32", "int8")
        for batch in (1, 8)
    ]
    result = compare(samples.bench(*rows), samples.bench(*rows[::-1]))
    assert len(result.pairs) == 4
    assert all(change.change == 0 for pair in result.pairs for change in pair.changes)


def test_rows_that_only_one_file_has_are_named(compare):
    first = samples.bench(samples.full_row(batch=1), samples.full_row(batch=4))
    second = samples.bench(samples.full_row(batch=1), samples.full_row(batch=8),
                           samples.full_row(batch=16))  # fmt: skip
    result = compare(first, second)
    assert len(result.pairs) == 1
    assert [label.rpartition(" ")[2] for label in result.only_first] == ["4"]
    assert [label.rpartition(" ")[2] for label in result.only_second] == ["8", "16"]


def test_renamed_engines_and_single_rows_find_each_other(compare):
    first = samples.bench(samples.full_row("v1.onnx"), samples.full_row("f1.onnx", "fp32"))
    second = samples.bench(samples.full_row("f2.onnx", "fp32"), samples.full_row("v2.onnx"))
    labels = [pair.label for pair in compare(first, second).pairs]
    assert labels == [
        "v1.onnx, onnxruntime int8, batch 1 → v2.onnx, onnxruntime int8, batch 1",
        "f1.onnx, onnxruntime fp32, batch 1 → f2.onnx, onnxruntime fp32, batch 1",
    ]
    alone = compare(samples.bench(samples.full_row("a.onnx", "fp32")),
                    samples.bench(samples.full_row("b.onnx", "int8")))  # fmt: skip
    assert len(alone.pairs) == 1


def test_nothing_in_common_is_an_error(compare):
    first = samples.bench(samples.full_row("a.onnx", batch=1), samples.full_row("b.onnx", batch=1))
    second = samples.bench(samples.full_row("c.onnx", "fp32", batch=2),
                           samples.full_row("d.onnx", "fp32", batch=4))  # fmt: skip
    with pytest.raises(InputError, match="no engine and batch size in common"):
        compare(first, second)


def test_kinds_do_not_mix(compare):
    with pytest.raises(InputError, match="different kinds"):
        compare(samples.bench(samples.full_row()), samples.parity())
    with pytest.raises(InputError, match="different kinds"):
        compare(samples.bench(samples.full_row()), samples.camera())
    with pytest.raises(InputError, match="is a pareto result"):
        compare(samples.pareto(), samples.pareto())


# Unlike settings ---------------------------------------------------------------------------------


FIRST_SETTINGS = {**samples.full_row()["settings"], "huge_page_bytes": 31_457_280}


def unlike(**changes):
    value = samples.bench(samples.full_row())
    value["environment"] = value["environment"] | changes.pop("environment", {})
    value["scenario"] = value["scenario"] | changes.pop("scenario", {})
    value["engines"][0] |= changes
    return value


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"environment": {"cpu": "Other"}}, "machine cpu: Test CPU, Other"),
        ({"environment": {"cores": 8}}, "machine cores: 4, 8"),
        ({"environment": {"gpus": [{"name": "Orin"}]}}, "machine gpus: none, Orin"),
        ({"environment": {"board": "Jetson"}}, "machine board: a PC, Jetson"),
        ({"scenario": {"name": "offline"}}, "scenario name: single-stream, offline"),
        ({"scenario": {"loop": "open"}}, "scenario loop: closed, open"),
        ({"batch": 2}, "batch of"),
        ({"cache": "flushed"}, "warm, flushed"),
        ({"input": "synthetic"}, "images, synthetic"),
        ({"input_sha256": "e" * 64}, f"{'d' * 12}, {'e' * 12}"),
        ({"settings": {"provider": "CPUExecutionProvider", "threads": 2}}, "settings threads"),
        ({"settings": {"provider": "CUDAExecutionProvider", "threads": 4}}, "settings provider"),
        ({"settings": {"huge_page_bytes": 0}}, "batch 1: used, not used"),
        ({"model_sha256": "c" * 64}, "model_sha256"),
    ],
)
def test_unlike_settings_are_refused_by_name_unless_forced(compare, changes, named):
    first, second = unlike(settings=FIRST_SETTINGS), unlike(**copy.deepcopy(changes))
    with pytest.raises(InputError, match="unlike settings") as caught:
        compare(first, second)
    assert named in caught.value.message
    assert "--force" in caught.value.hint
    forced = compare(first, second, force=True)
    assert forced.forced
    assert any(difference.refuses for difference in forced.differences)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": {"packages": {"onnxruntime": "1.21.0"}, "python": "3.12.0"}},
        {"scenario": {"duration_s": 60, "seed": 3}},
        {"precision": "fp16"},
        {"cache": None},
        {"settings": FIRST_SETTINGS | {"huge_page_bytes": 37_748_736}},
    ],
)
def test_what_may_be_compared_is_listed_and_refuses_nothing(compare, changes):
    result = compare(unlike(settings=FIRST_SETTINGS), unlike(**changes))
    assert result.differences
    assert not result.forced
    assert not any(difference.refuses for difference in result.differences)


def test_a_run_that_is_not_valid_is_refused_unless_forced(compare):
    first = samples.bench(samples.full_row())
    second = unlike(valid=False, invalid_because=["throttled at 12 s"])
    with pytest.raises(InputError, match="throttled at 12 s"):
        compare(first, second)
    assert "throttled" in compare(first, second, force=True).invalid[0]
    whole = samples.bench(samples.full_row(), valid=False, invalid_because=["other programs"])
    with pytest.raises(InputError, match="other programs"):
        compare(first, whole)


# Bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p50", "bounds", "verdict"),
    [
        (13.0, Bounds(regression=5), "fail"),
        (10.0, Bounds(regression=5), "pass"),
        (7.0, Bounds(regression=5), "pass"),
        (13.0, Bounds(regression=80), "pass"),
        (13.0, None, None),
    ],
)
def test_a_clear_regression_fails(compare, p50, bounds, verdict):
    first = samples.bench(samples.full_row(seed=1))
    result = compare(first, samples.bench(samples.full_row(p50=p50, seed=2)), bounds)
    assert result.verdict == verdict


def test_a_regression_within_its_interval_fails_only_if_strict(compare):
    first, second = samples.minimal_row(p50=10), samples.minimal_row(p50=10.6)
    for row in (first, second):
        middle = row["latency_ms"]["p50"]
        row["latency_ms"]["ci95_p50"] = [0.95 * middle, 1.05 * middle]
    values = samples.bench(first), samples.bench(second)
    assert compare(*values, Bounds(regression=5)).verdict == "pass"
    strict = compare(*values, Bounds(regression=5, strict=True))
    assert strict.verdict == "fail"
    assert changes_of(strict)["p50"].fails


def test_more_throughput_is_no_regression(compare):
    first = samples.bench(samples.full_row(p50=10, seed=1))
    second = samples.bench(samples.full_row(p50=5, seed=2))
    assert compare(first, second, Bounds(regression=1, strict=True)).verdict == "pass"


def test_accuracy_is_judged_in_points(compare):
    worse = samples.parity(engine={"top1": 0.80, "top5": 1.0}, flips={"broken": 60, "fixed": 0},
                           drop_pp=15.0, drop_ci95_pp=[11.0, 19.0], flipped=[])  # fmt: skip
    result = compare(samples.parity(), worse, Bounds(regression=50, drop_pp=1))
    assert result.verdict == "fail"
    assert changes_of(result)["top-1"].bound == 1
    assert compare(samples.parity(), worse, Bounds(regression=50)).verdict == "pass"
    assert compare(samples.parity(), worse, Bounds(regression=5)).verdict == "fail"


@pytest.mark.parametrize("options", [{"regression": -1}, {"drop_pp": -0.1}, {"strict": True}])
def test_bounds_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError):
        Bounds(**options)


# Parity ------------------------------------------------------------------------------------------


def test_the_same_images_are_compared_one_by_one(compare):
    first = samples.parity()
    # The second mends one image that the first broke, and breaks two others.
    flipped = [item for item in first["flipped"] if item["image"] != "3/0.png"]
    flipped += [dict(flipped[0], image=f"7/{at}.png", kind="broken") for at in range(2)]
    second = samples.parity(
        flipped=flipped, flips={"broken": 4, "fixed": 1}, drop_pp=0.75,
        engine={"top1": 0.9425, "top5": 1.0}, agreement=0.9875,
    )  # fmt: skip
    found = changes_of(compare(first, second))
    assert found["top-1"].basis == found["drop"].basis == "same images"
    assert found["top-1"].change == pytest.approx(-0.25)
    assert found["drop"].change == pytest.approx(0.25)
    assert found["top-1"].low == pytest.approx(-found["drop"].high)
    assert found["agreement"].basis == "same images"
    unpaired = changes_of(compare(first, second | {"flipped": []}))
    assert unpaired["top-1"].basis == "images"
    widths = [item["top-1"].high - item["top-1"].low for item in (found, unpaired)]
    assert widths[0] < widths[1] / 2


def test_other_images_are_refused(compare):
    other = samples.parity(images_sha256="c" * 64, images=500, labelled=500)
    with pytest.raises(InputError, match=r"images of .*: 400, 500"):
        compare(samples.parity(), other)
    moved = samples.parity(images_name="elsewhere/val")
    assert compare(samples.parity(), moved).pairs


def test_several_engines_of_parity(compare):
    rows = [samples.parity(engine_path=f"{name}.onnx") for name in ("a", "b")]
    first = {"kind": "parity", "parity": rows}
    second = {"kind": "parity", "parity": rows[::-1]}
    assert [pair.label for pair in compare(first, second).pairs] == ["a.onnx", "b.onnx"]


def test_results_without_labels_compare_agreement(compare):
    value = samples.parity(labelled=0, reference=None, engine=None, drop_pp=None,
                           drop_ci95_pp=None, flips=None, mcnemar_p=None)  # fmt: skip
    found = changes_of(compare(value, value))
    assert "top-1" not in found
    assert found["agreement"].verdict == "no change seen"


def test_an_sqnr_of_equal_outputs_is_left_out(compare):
    value = samples.parity(sqnr_db=None)
    assert "SQNR" not in changes_of(compare(value, value))
    assert "logit SQNR" in changes_of(compare(value, value))


# History -----------------------------------------------------------------------------------------


def test_a_run_for_the_history_has_machine_hash_and_figures(tmp_path):
    row = samples.full_row()
    path = samples.write(tmp_path / "bench.json", samples.bench(row))
    entry = describe_run(path)
    assert (entry.date, entry.source, entry.kind) == (
        samples.MACHINE["date"],
        "bench.json",
        "bench",
    )
    assert entry.machine["cpu"] == "Test CPU"
    assert entry.rows[0]["figures"]["p50_ms"] == row["latency_ms"]["p50"]
    parity = describe_run(samples.write(tmp_path / "parity.json", samples.parity()))
    assert parity.rows[0]["figures"]["top1"] == 0.945


def test_engines_of_the_same_file_name_are_paired_by_their_folders(compare):
    def run(seed):
        return samples.bench(
            *(samples.full_row(f"{name}/alexnet.int8.onnx", p50=p50, seed=seed + p50)
              for name, p50 in (("old", 10), ("new", 8)))
        )  # fmt: skip

    result = compare(run(1), run(50))
    assert [pair.label.rpartition(" ")[2] for pair in result.pairs] == [
        "(old/alexnet.int8.onnx)", "(new/alexnet.int8.onnx)",
    ]  # fmt: skip
    for index, p50 in enumerate((10, 8)):
        change = changes_of(result, index)["p50"]
        assert change.first == pytest.approx(p50, rel=0.1)
        assert abs(change.change) < 10


def test_an_engine_that_is_there_twice_is_not_guessed_at(compare):
    twice = samples.bench(samples.full_row(seed=1), samples.full_row(seed=2))
    with pytest.raises(InputError, match="can be told apart") as caught:
        compare(twice, twice)
    assert "each once" in caught.value.hint


def test_a_bound_that_judges_nothing_is_refused(compare):
    first, second = (samples.bench(samples.full_row(p50=p50)) for p50 in (10, 12))
    with pytest.raises(InputError, match="for top-1 and agreement") as caught:
        compare(first, second, Bounds(drop_pp=1))
    assert "--max-regression" in caught.value.hint


@pytest.mark.parametrize("basis", ["turns", "samples"])
def test_a_percentile_s_interval_rests_on_what_bench_says(compare, basis):
    rows = [samples.full_row(seed=seed) for seed in (1, 2)]
    for row in rows:
        row["latency_ms"]["basis"] = basis
    found = changes_of(compare(*map(samples.bench, rows)))
    assert found["p90"].basis == basis


def test_a_machine_that_names_no_gpus_is_compared(compare):
    machine = samples.MACHINE | {"gpus": None}
    result = compare(*(samples.bench(samples.full_row(), environment=machine) for _ in range(2)))
    assert result.pairs


def test_parity_s_engines_of_the_same_file_name_are_told_apart(compare):
    paths = [f"{name}/alexnet.int8.onnx" for name in ("old", "new")]
    several = {"kind": "parity", "parity": [samples.parity(engine_path=path) for path in paths]}
    result = compare(several, several)
    assert [pair.label.rpartition(" ")[2] for pair in result.pairs] == [f"({p})" for p in paths]
