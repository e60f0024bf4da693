"""Hashes, atomic writes and JSON files of `alexnet_edge.artifacts`."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_edge import artifacts
from alexnet_edge.artifacts import require_target, write_bytes
from alexnet_edge.errors import InputError

SLOW_WRITER = """
import sys
from pathlib import Path
from alexnet_edge.artifacts import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"from the child")
    print("half way", flush=True)
    sys.stdin.readline()
"""
WRITER_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from alexnet_edge.artifacts import write_bytes

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_bytes(Path(sys.argv[1]), bytes(5000))
"""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=5)


@pytest.fixture
def slow_writer(tmp_path):
    """A process that is half way through writing `tmp_path / "model.onnx"`."""
    command = [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "model.onnx")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "half way\n"
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256_file_is_the_hash_of_all_bytes(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "data.bin"
    path.write_bytes(data[:size])
    assert artifacts.sha256_file(path) == hashlib.sha256(data[:size]).hexdigest()


@settings(deadline=None)
@given(json_objects)
def test_sha256_json_depends_on_neither_key_order_nor_white_space(value):
    reversed_keys = dict(reversed(value.items()))
    reread = json.loads(json.dumps(reversed_keys, indent=3))
    assert artifacts.sha256_json(reread) == artifacts.sha256_json(value)


@pytest.mark.parametrize(("left", "right"), [({"a": 1}, {"a": 2}), ([1, 2], [2, 1]), ("1", 1)])
def test_sha256_json_tells_values_apart(left, right):
    assert artifacts.sha256_json(left) != artifacts.sha256_json(right)


def test_atomic_path_shows_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with artifacts.atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert (temporary.parent, temporary.suffix) == (path.parent, ".onnx")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be replaced there")
def test_who_has_the_old_file_open_reads_it_to_its_end(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        artifacts.write_bytes(path, b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_leaves_the_old_file_whole_when_the_block_fails(tmp_path, failure):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(failure), artifacts.atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise failure
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
def test_write_bytes_leaves_the_old_file_whole_when_the_disk_is_full(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", WRITER_ON_A_FULL_DISK, str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"OSError: [Errno 27] File too large: '{path}'" in process.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("failing", [0, 1])
def test_of_several_files_none_is_replaced_before_all_are_whole(tmp_path, failing):
    paths = [tmp_path / "model.onnx", tmp_path / "model.onnx.json"]
    for path in paths:
        path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError) as caught, artifacts.atomic_paths(*paths) as temporaries:
        temporaries[1 - failing].write_bytes(b"new")
    assert caught.value.filename == str(paths[failing])
    assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert names(tmp_path) == ["model.onnx", "model.onnx.json"]

    with artifacts.atomic_paths(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_bytes(b"new")
        assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert [path.read_bytes() for path in paths] == [b"new", b"new"]
    assert names(tmp_path) == ["model.onnx", "model.onnx.json"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "{folder}/a, {folder}/b"),
        (OSError(errno.EACCES, "Permission denied", "/other/file"), "/other/file"),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), "None"),
    ],
)
def test_an_error_of_the_disk_names_what_could_not_be_written(tmp_path, error, named):
    with (
        pytest.raises(OSError, match=error.strerror),
        artifacts.atomic_paths(tmp_path / "a", tmp_path / "b"),
    ):
        raise error
    assert str(error.filename) == named.format(folder=tmp_path)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_half_way_leaves_nothing_that_looks_whole(tmp_path, slow_writer, old):
    path = tmp_path / "model.onnx"
    if old:
        path.write_bytes(old)
    slow_writer.kill()
    slow_writer.wait()
    assert (path.read_bytes() if path.exists() else None) == old
    assert len([name for name in names(tmp_path) if ".partial" in name]) == 1

    artifacts.write_bytes(path, b"second try")
    assert path.read_bytes() == b"second try"
    assert names(tmp_path) == ["model.onnx"]


def test_a_writer_that_is_still_alive_is_not_disturbed(tmp_path, slow_writer):
    path = tmp_path / "model.onnx"
    artifacts.write_bytes(path, b"from the parent")
    assert path.read_bytes() == b"from the parent"
    slow_writer.communicate("go on\n")
    assert slow_writer.returncode == 0
    assert path.read_bytes() == b"from the child"


def test_partial_files_of_other_artifacts_stay(tmp_path):
    others = [".model2.999999999.partial.onnx", ".model.999999999.partial.pt", ".model.x.partial"]
    for name in others:
        (tmp_path / name).touch()
    artifacts.write_bytes(tmp_path / "model.onnx", b"new")
    assert names(tmp_path) == sorted([*others, "model.onnx"])


@pytest.mark.parametrize("pid", [999_999_999, 99_999_999_999_999_999_999])
def test_partial_files_of_impossible_processes_are_abandoned(tmp_path, pid):
    (tmp_path / f".a+[b].{pid}.partial.json").touch()
    artifacts.write_json(tmp_path / "a+[b].json", {})
    assert names(tmp_path) == ["a+[b].json"]


def test_atomic_path_refuses_a_missing_folder(tmp_path):
    path = tmp_path / "missing" / "model.onnx"
    with pytest.raises(InputError, match="missing: no such folder") as caught:
        artifacts.write_bytes(path, b"")
    assert caught.value.hint == f"mkdir -p {path.parent}"


def test_atomic_path_refuses_a_folder_as_the_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        artifacts.write_bytes(tmp_path, b"")


@settings(max_examples=30, deadline=None)
@given(json_objects)
def test_json_objects_round_trip(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "value.json")
        artifacts.write_json(path, value)
        assert artifacts.read_json(path, what="a value", hint="") == value


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1} trailing', b"\xff\xfe", b"[1]", b'"text"', b"null", b"[" * 100_000],
    ids=["empty", "cut", "trailing", "not UTF-8", "list", "string", "null", "too deep"],
)
def test_read_json_refuses_what_is_not_an_object(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"table\.json: is not a table") as caught:
        artifacts.read_json(path, what="a table", hint="alexnet-edge calibrate")
    assert caught.value.hint == "alexnet-edge calibrate"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("missing.json", "no such file"), ("folder", "is not a table"), ("file/x", "is not a table")],
)
def test_read_json_refuses_what_it_cannot_open(tmp_path, name, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{name}: {problem}"):
        artifacts.read_json(tmp_path / name, what="a table", hint="")


def test_require_file_returns_a_file_and_refuses_the_rest(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    assert artifacts.require_file(path, hint="") == path
    with pytest.raises(InputError, match="is a folder"):
        artifacts.require_file(tmp_path, hint="")
    with pytest.raises(InputError, match="no such file") as caught:
        artifacts.require_file(tmp_path / "missing.onnx", hint="alexnet-edge export")
    assert caught.value.hint == "alexnet-edge export"


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    real, link = tmp_path / "elsewhere" / "real.json", tmp_path / "link.json"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "elsewhere",
        "link.json",
        "real.json",
    ]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        write_bytes(pipe, b"whole")
        assert read.result(timeout=10) == b"whole"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_stays_a_device(tmp_path):
    null = Path(os.devnull)
    if not null.is_char_device():
        pytest.skip("needs a null device")
    if os.geteuid() == 0:  # whoever may replace devices tries it on one of its own
        null = tmp_path / "null"
        try:
            os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("may not make devices")
    write_bytes(null, b"gone")
    assert null.is_char_device()


def test_where_nobody_may_write_is_said_before_work_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(PermissionError) as caught:
        require_target(tmp_path / "x.json")
    assert caught.value.filename == str(tmp_path / "x.json")
