"""What may be asked for, and what contradicts itself."""

from __future__ import annotations

import pytest

from alexnet_edge.bench import BenchSettings, Scenario
from alexnet_edge.errors import InputError


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 0}, {"duration_s": 0}, {"warmup_s": -1}, {"min_samples": 0}, {"seed": -1},
        {"duration_s": float("nan")}, {"duration_s": float("inf")}, {"warmup_s": float("nan")},
        {"sweep": (1, 0)}, {"sweep": (1, 2, 1)}, {"sweep": (1, 2), "batch": 1}, {"cache": "hot"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        BenchSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "burst"}, "unknown"),
        ({"name": "server"}, "needs a rate"),
        ({"name": "server", "rate_qps": 0}, "rate is 0"),
        ({"name": "server", "rate_qps": float("nan")}, "rate is nan"),
        ({"name": "offline", "rate_qps": 5}, "closed loop"),
        ({"name": "multi-stream", "images_per_query": 0}, "0 images"),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Scenario(**values)


@pytest.mark.parametrize("name", ["offline", "server"])
def test_the_cache_cannot_be_flushed_where_queries_do_not_wait_for_it(name):
    rate = 5 if name == "server" else None
    with pytest.raises(InputError, match="no time to flush"):
        BenchSettings(scenario=Scenario(name, rate), cache="flushed")


@pytest.mark.parametrize("values", [{"batch": 4}, {"sweep": (1, 4)}])
def test_a_batch_holds_no_more_than_a_query(values):
    with pytest.raises(InputError, match="a query holds 2 images, the batch is 4"):
        BenchSettings(scenario=Scenario("multi-stream", images_per_query=2), **values)


def test_a_server_that_would_take_hours_is_refused():
    with pytest.raises(InputError, match="hours") as refused:
        BenchSettings(scenario=Scenario("server", 0.01))
    assert "--min-samples" in refused.value.hint
