"""Work is shared strip by strip: each is done once, whoever helps, and the threads end."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
import time

import pytest

from alexnet_edge.classifier.crew import Crew
from alexnet_edge.machine import core_numbers, kept_to
from tests.camera.scenes import wait_until


@pytest.fixture
def crew():
    made = Crew(2, "helper")
    yield made
    made.close()


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("helper-")]


def test_each_strip_is_done_once(crew):
    done: list[int] = []
    for _ in range(200):
        crew.share(done.append, 7)
    assert sorted(done) == sorted(list(range(7)) * 200)


def test_helpers_take_part(crew):
    seen = set()

    def work(strip):
        seen.add(threading.current_thread().name)
        time.sleep(0.05)

    crew.share(work, 9)
    assert len(seen) == 3


def test_roused_helpers_are_there_at_once_and_sleep_again(crew):
    crew.rouse()
    assert len(helpers()) == 2
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15, "they wait for work for a hundredth of a second"
    done: list[int] = []
    crew.share(done.append, 3)
    assert sorted(done) == [0, 1, 2]


def test_several_callers_share_one_crew(crew):
    def call(caller):
        done = []
        for _ in range(50):
            crew.share(lambda strip: done.append((caller, strip)), 4)
        return done

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for caller, done in enumerate(pool.map(call, range(4))):
            assert sorted(done) == sorted((caller, strip) for strip in range(4) for _ in range(50))


def test_an_error_is_raised_where_the_work_was_given(crew):
    done = []

    def work(strip):
        if strip == 3:
            raise ValueError("strip 3")
        done.append(strip)

    with pytest.raises(ValueError, match="strip 3"):
        crew.share(work, 6)
    assert sorted(done) == [0, 1, 2, 4, 5]
    crew.share(done.append, 2)  # and goes on
    assert sorted(done) == [0, 0, 1, 1, 2, 4, 5]


def test_without_helpers_the_caller_does_it_all():
    crew = Crew(0, "helper")
    crew.rouse()
    seen = []
    crew.share(lambda strip: seen.append(threading.current_thread()), 3)
    crew.close()
    assert seen == [threading.current_thread()] * 3


@pytest.mark.skipif(len(core_numbers()) < 2, reason="needs two cores")
def test_helpers_keep_to_cores_that_are_not_the_callers():
    own, other = core_numbers()[:2]
    crew = Crew(1, "helper")
    with kept_to([own]):
        crew.share(lambda strip: None, 2)
    (helper,) = helpers()
    wait_until(lambda: os.sched_getaffinity(helper.native_id) == {other})
    crew.close()


def test_threads_end_with_close_and_with_a_crew_that_nobody_holds():
    crew = Crew(2, "helper")
    crew.share(lambda strip: None, 2)
    assert len(helpers()) == 2
    crew.close()
    assert not helpers()
    crew = Crew(2, "helper")
    crew.share(lambda strip: None, 2)
    del crew
    gc.collect()
    wait_until(lambda: not helpers())
