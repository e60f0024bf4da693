"""What `with` does to everything that is closed."""

from __future__ import annotations

import pytest

from alexnet_edge.bench.caches import CacheFlusher
from alexnet_edge.closing import Closing
from alexnet_edge.sensors.sampler import SensorSampler


class Door(Closing):
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def test_the_block_gets_the_thing_itself_and_closes_it_at_its_end():
    door = Door()
    with door as same:
        assert same is door
        assert door.closed == 0
    assert door.closed == 1


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_block_closes_it_and_goes_on(failure):
    door = Door()
    with pytest.raises(failure), door:
        raise failure
    assert door.closed == 1


def test_without_close_there_is_nothing_to_make():
    with pytest.raises(TypeError, match="close"):
        type("Wall", (Closing,), {})()


def test_a_flusher_that_is_closed_flushes_no_more():
    with CacheFlusher() as flusher:
        flusher()
    flusher.close()
    with pytest.raises(RuntimeError):
        flusher()


def test_a_sampler_is_closed_once():
    with SensorSampler(0.05, sensors=()) as sampler:
        pass
    samples = sampler.log().samples
    sampler.close()
    assert sampler.log().samples == samples


def test_a_sampler_that_never_ran_has_nothing_to_close():
    SensorSampler(sensors=()).close()
