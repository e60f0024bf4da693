"""The sampling thread: what it takes, what it survives, what it leaves behind."""

from __future__ import annotations

import threading
import time

import pytest

from alexnet_edge.errors import InputError
from alexnet_edge.sensors import Meter, Reading, Sensor, SensorSampler
from tests.sensors.standins import Scripted

METER = Meter("x", rails=("r",))


def wait_for(condition, seconds=5.0):
    """Return once a condition holds; the machine may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def test_samples_reach_over_the_block():
    sensor = Scripted(Reading(power_w={"r": 4.0}), meter=METER)
    with SensorSampler(0.01, [sensor]) as sampler:
        start_s = time.monotonic()
        wait_for(lambda: sensor.reads > 5)
        end_s = time.monotonic()
    log = sampler.log()
    assert log.energy_j(start_s, end_s) == pytest.approx(4 * (end_s - start_s))
    assert log.samples == sensor.reads == len(log.tracks[0].readings)
    times = [time_s for time_s, _ in log.tracks[0].readings]
    assert times == sorted(times)


def test_log_while_sampling_reaches_until_now():
    sensor = Scripted(Reading(power_w={"r": 4.0}), meter=METER)
    with SensorSampler(60, [sensor]) as sampler:
        start_s = time.monotonic()
        time.sleep(0.02)
        end_s = time.monotonic()
        assert sampler.log().energy_j(start_s, end_s) == pytest.approx(4 * (end_s - start_s))


def test_sensor_that_never_answers_is_closed_and_named():
    broken = Scripted(PermissionError("for root only"), name="rapl")
    sound = Scripted(Reading(cpu_clock_mhz=1000))
    with SensorSampler(60, [broken, sound]) as sampler:
        pass
    log = sampler.log()
    assert [(item.sensor, item.reason) for item in log.missing] == [("rapl", "for root only")]
    assert [track.name for track in log.tracks] == ["scripted"]
    assert broken.reads == broken.closed == 1


def test_sensor_that_fails_once_is_kept_and_named():
    flaky = Scripted(
        Reading(power_w={"r": 1.0}), OSError("bus busy"), Reading(power_w={"r": 1.0}), meter=METER
    )
    with SensorSampler(60, [flaky]) as sampler:
        sampler.log()
    log = sampler.log()
    assert len(log.tracks[0].readings) == 2
    (missing,) = log.missing
    assert missing.reason == "failed 1 times (last: bus busy)"


def test_sensor_that_stops_answering_is_given_up_and_keeps_what_it_gave():
    dying = Scripted(Reading(power_w={"r": 1.0}), OSError("gone"), meter=METER)
    with SensorSampler(0.005, [dying]) as sampler:
        wait_for(lambda: dying.closed)
        time.sleep(0.05)
    log = sampler.log()
    assert dying.reads == 4
    assert log.missing[0].reason == "failed 3 times, and was given up (last: gone)"
    assert len(log.tracks[0].readings) == 1
    assert log.energy_j(*(time.monotonic() + offset for offset in (-0.01, 0))) is None


def test_what_happens_in_the_block_is_raised_and_the_sensors_are_closed():
    sensor = Scripted()
    with pytest.raises(ZeroDivisionError), SensorSampler(60, [sensor]):
        _ = 1 / 0
    assert sensor.closed == 1
    assert "sensors" not in {thread.name for thread in threading.enumerate()}


def test_sensor_that_cannot_be_closed_is_no_error():
    class Clinging(Scripted):
        def close(self):
            raise RuntimeError("busy")

    with SensorSampler(60, [Clinging()]) as sampler:
        pass
    assert sampler.log().samples == 2


def test_sensor_that_hangs_does_not_hang_the_block(monkeypatch):
    monkeypatch.setattr("alexnet_edge.sensors.sampler._PATIENCE_S", 0.05)
    released = threading.Event()

    class Hanging(Sensor):
        name = "i2c"
        reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 1:
                released.wait(30)
            return Reading(cpu_clock_mhz=1000)

    sensor = Hanging()
    with SensorSampler(0.005, [sensor]) as sampler:
        wait_for(lambda: sensor.reads > 1)
    log = sampler.log()
    released.set()
    assert [(item.sensor, item.reason) for item in log.missing] == [
        ("i2c", "a reading is still under way")
    ]
    assert len(log.tracks[0].readings) == 1


def test_slow_quantities_are_read_less_often_but_at_both_ends():
    slow = Scripted(every=1000, name="slow")
    fast = Scripted(name="fast")
    with SensorSampler(0.005, [slow, fast]):
        wait_for(lambda: fast.reads > 10)
    assert slow.reads == 2


def test_old_readings_are_forgotten_and_throttling_is_not():
    hot, cool = Reading(events={"e": 1}, throttling=("too hot",)), Reading(events={"e": 3})
    sensor = Scripted(hot, cool)
    with SensorSampler(0.005, [sensor], keep_s=0.05) as sampler:
        wait_for(lambda: sensor.reads > 40)
        time.sleep(0.06)
    log = sampler.log()
    assert len(log.tracks[0].readings) < sensor.reads
    assert log.throttled() == ("too hot", "e rose by 2")


def test_gaps_and_settings_are_told():
    sensor = Scripted(settings={"nvpmodel": "0 MAXN"}, gaps=("no memory clock",))
    with SensorSampler(60, [sensor]) as sampler:
        pass
    found = sampler.log().to_dict()
    assert found["settings"] == {"nvpmodel": "0 MAXN"}
    assert found["missing"] == [{"sensor": "scripted", "reason": "no memory clock"}]


def test_time_of_the_thread_is_counted():
    class Busy(Scripted):
        def read(self):
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass
            return super().read()

    sensor = Busy()
    with SensorSampler(0.001, [sensor]) as sampler:
        wait_for(lambda: sensor.reads > 20)
    assert 0 < sampler.log().cpu_share <= 1
    assert sampler.log().to_dict()["sampler_cpu_share"] > 0


@pytest.mark.parametrize(("interval_s", "keep_s"), [(0, 10), (-1, 10), (5, 1)])
def test_interval_that_makes_no_sense_is_refused(interval_s, keep_s):
    with pytest.raises(InputError, match="cannot sample"):
        SensorSampler(interval_s, [], keep_s)


def test_sampler_runs_once():
    sampler = SensorSampler(60, [])
    with pytest.raises(InputError, match="has not run"):
        sampler.log()
    with sampler:
        pass
    with pytest.raises(InputError, match="has run already"), sampler:
        pass


def test_sensors_of_this_machine_can_be_sampled():
    with SensorSampler(0.02) as sampler:
        start_s = time.monotonic()
        time.sleep(0.1)
        end_s = time.monotonic()
    log = sampler.log()
    assert log.samples >= 2
    energy_j = log.energy_j(start_s, end_s)
    assert (energy_j is None) is (log.energy_source is None)
    assert energy_j is None or energy_j >= 0
    for spread in (log.to_dict()["cpu_clock_mhz"], log.to_dict()["gpu_clock_mhz"]):
        assert spread is None or 0 < spread["min"] <= spread["median"] <= spread["max"] < 10_000
