"""How queries are sent and timed, with queries whose time is known."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from alexnet_edge.bench.turns import run_back_to_back, run_closed, run_server

MS = 1_000_000


def test_a_closed_loop_times_each_query_and_nothing_between_them():
    flushed = []

    def flush():
        flushed.append(time.sleep(0.02))

    turn = run_closed(lambda: time.sleep(0.01), 0.2, flush)
    assert len(flushed) == len(turn.latency_ns) >= 2
    assert min(turn.latency_ns) >= 10 * MS
    assert turn.elapsed_ns == sum(turn.latency_ns)
    assert turn.end_s - turn.start_s >= 0.03 * len(flushed)


def test_a_closed_loop_runs_one_query_at_least():
    assert len(run_closed(lambda: time.sleep(0.01), 0).latency_ns) == 1


def test_several_callers_are_kept_busy_at_a_time():
    inside, most, lock = 0, 0, threading.Lock()

    def query():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1

    turn = run_back_to_back(query, 0.2, 3)
    assert most == 3
    assert sum(turn.latency_ns) > 1.5 * turn.elapsed_ns, "calls did not overlap"


def test_what_a_caller_raises_is_raised():
    def query():
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        run_back_to_back(query, 0.1, 2)


def test_latency_counts_from_the_scheduled_arrival():
    """One slow answer delays those behind it; a loop that waits for answers would not see it."""
    answers = iter([0.4])

    def query():
        time.sleep(next(answers, 0))

    arrivals = [index * 10 * MS for index in range(40)]
    turn = run_server(query, arrivals, 1, patience_s=10)
    late = np.array(turn.latency_ns) / MS
    # The query that arrives at 10·k ms is answered after 400 ms at the earliest.
    expected = np.maximum(400 - 10 * np.arange(40), 0)
    assert (late >= expected).all()
    closed = run_closed(query, 0.1).latency_ns
    assert np.median(closed) < 100 * MS < np.median(turn.latency_ns)
    total = np.array(turn.queue_ns) + np.array(turn.service_ns)
    np.testing.assert_array_equal(total, turn.latency_ns)
    assert min(turn.queue_ns) >= 0


def test_nothing_is_sent_before_it_arrives():
    begin = time.perf_counter()
    sent = []
    run_server(lambda: sent.append(time.perf_counter() - begin), [0, 50 * MS, 120 * MS], 1, 1)
    assert sent[1] >= 0.05
    assert sent[2] >= 0.12


def test_an_overloaded_server_gives_up_in_bounded_time():
    begin = time.perf_counter()
    arrivals = [index * MS for index in range(300)]  # 1000 a second, 20 a second are served
    turn = run_server(lambda: time.sleep(0.05), arrivals, 1, patience_s=0.3)
    assert time.perf_counter() - begin < 5
    assert 0 < len(turn.latency_ns) < 100
    assert turn.unserved == 300 - len(turn.latency_ns)


def test_a_server_with_more_contexts_serves_more():
    arrivals = [index * 10 * MS for index in range(30)]
    one = run_server(lambda: time.sleep(0.03), arrivals, 1, patience_s=10)
    four = run_server(lambda: time.sleep(0.03), arrivals, 4, patience_s=10)
    assert len(four.latency_ns) == 30
    assert max(four.queue_ns) < max(one.queue_ns)


def test_a_server_s_turn_lasts_on_after_its_last_query():
    """Else the rate of few queries would be reckoned without the time in which none came."""
    turn = run_server(lambda: None, [0, 20 * MS], 1, patience_s=1, seconds=0.5)
    assert turn.elapsed_ns == 500 * MS
    late = run_server(lambda: time.sleep(0.05), [0], 1, patience_s=1, seconds=0.01)
    assert late.elapsed_ns >= 50 * MS
