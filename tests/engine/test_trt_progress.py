"""Progress of nested phases, as one number."""

from __future__ import annotations

from alexnet_edge.engine.trt_progress import BuildProgress


def follow():
    told = []
    return told, BuildProgress(lambda phase, done, total: told.append((phase, done / total)))


def test_steps_of_an_inner_phase_are_parts_of_the_outer_step():
    told, progress = follow()
    progress.start("build", None, 2)
    progress.start("timing", "build", 4)
    for step in range(4):
        assert progress.step("timing", step)
    progress.finish("timing")
    progress.step("build", 0)
    progress.step("build", 1)
    progress.finish("build")
    assert [share for _, share in told] == [0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 1, 1]
    assert told[2] == ("timing", 0.125)


def test_it_never_falls_back_within_a_phase():
    told, progress = follow()
    progress.start("build", None, 2)
    progress.start("timing", "build", 1)
    progress.step("timing", 0)
    progress.finish("timing")
    progress.start("memory", "build", 10)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_a_second_build_begins_at_nothing():
    told, progress = follow()
    for name in ("first", "second"):
        progress.start(name, None, 1)
        progress.step(name, 0)
        progress.finish(name)
    assert [share for _, share in told] == [0, 1, 1, 0, 1, 1]


def test_what_the_callback_raises_stops_the_build():
    def refuse(*_):
        raise KeyboardInterrupt

    progress = BuildProgress(refuse)
    progress.start("build", None, 2)
    assert progress.step("build", 0) is False
    assert isinstance(progress.failure, KeyboardInterrupt)


def test_a_phase_that_nobody_announced_is_no_error():
    told, progress = follow()
    assert progress.step("unknown", 3)
    progress.finish("unknown")
    assert [share for _, share in told] == [0, 0]
