"""The history holds whole lines, whoever writes at the same time and whatever goes wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os

import pytest

from alexnet_edge.errors import InputError
from alexnet_edge.results import to_json
from alexnet_edge.results_files import HistoryEntry, append_history, read_history

ENTRY = HistoryEntry(
    date="2026-03-01T10:00:00+00:00",
    source="bench.json",
    sha256="a" * 64,
    kind="bench",
    machine={"cpu": "Test CPU"},
    rows=({"label": "int8, batch 1", "figures": {"p50_ms": 10.0, "energy_j_per_inference": None}},),
)


def numbered(number: int) -> HistoryEntry:
    return dataclasses.replace(ENTRY, sha256=f"{number:064d}", source="x" * 5000)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "history.jsonl"
    assert append_history(path, ENTRY)
    assert append_history(path, numbered(1))
    assert read_history(path) == (ENTRY, numbered(1))


def test_a_result_is_added_once(tmp_path):
    path = tmp_path / "history.jsonl"
    assert append_history(path, ENTRY)
    assert not append_history(path, ENTRY)
    assert len(read_history(path)) == 1


def _append_many(path, first):
    for number in range(first, first + 20):
        append_history(path, numbered(number))


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "history.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, 100 * at)) for at in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert {entry.sha256 for entry in read_history(path)} == {
        f"{100 * at + step:064d}" for at in range(4) for step in range(20)
    }


def test_a_full_disk_takes_the_line_back(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    append_history(path, ENTRY)
    before = path.read_bytes()
    write = os.write

    def write_some(descriptor, data):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(OSError, match="No space"):
        append_history(path, numbered(1))
    assert path.read_bytes() == before


def test_a_line_that_another_program_left_open_is_ended_first(tmp_path):
    path = tmp_path / "history.jsonl"
    append_history(path, ENTRY)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append_history(path, numbered(1))
    assert len(read_history(path)) == 2


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", json.dumps({"date": "x", "rows": 1})])
def test_a_line_that_is_no_run_is_named_and_nothing_is_added(tmp_path, line):
    path = tmp_path / "history.jsonl"
    append_history(path, ENTRY)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(InputError, match="line 2 is no run"):
        read_history(path)
    with pytest.raises(InputError, match="line 2 is no run"):
        append_history(path, numbered(1))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"date": 3}, "date"),
        ({"machine": {"gpus": 5}}, "machine.gpus"),
        ({"rows": [{"label": "x", "figures": {"p50_ms": float("nan")}}]}, "rows[0].figures.p50_ms"),
        ({"rows": [{"label": "x", "figures": {"p50_ms": "10"}}]}, "rows[0].figures.p50_ms"),
        ({"rows": [{"label": "x", "figures": {}, "cache": []}]}, "rows[0].cache"),
        ({"rows": [{"label": "x", "figures": {}, "valid": "no"}]}, "rows[0].valid"),
        ({"rows": [{"figures": {}}]}, "rows[0].label: is missing"),
    ],
)
def test_a_damaged_field_of_a_run_is_named(tmp_path, change, field):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(to_json(ENTRY) | change) + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_history(path)
    assert f"line 1 is no run ({field}" in caught.value.message
    assert caught.value.hint


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        append_history(tmp_path / "nowhere" / "history.jsonl", ENTRY)
    with pytest.raises(InputError, match="no such file"):
        read_history(tmp_path / "history.jsonl")
