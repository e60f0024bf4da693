"""Image lists: sha256sum's format both ways, and a calibration that can be run again from one."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.dataset import open_images
from alexnet_edge.errors import DatasetError, StaleArtifactError
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.image_list import pick_images, read_image_list, write_image_list

A, B = "a" * 64, "0123456789abcdef" * 4
ODD_NAMES = (
    "a b.png", " a.png", "a.png ", "#a.png", "*a.png", "-a.png", "a  b.png", "é.png",
    "a\\b.png", "a\\nb.png", "a\nb.png", "a\x0cb.png", "a\u2028b.png", "a\x85.png",
)  # fmt: skip
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.sampled_from([*ODD_NAMES, "a\rb.png", "a\r"]) | st.text(
    # A byte that is no UTF-8 is half a surrogate in Python's names of files.
    st.characters(codec="utf-8", exclude_characters="\0") | st.just("\udcff"),
    min_size=1,
)
LINES = st.builds(
    "{}{} {}{}{}".format,
    st.sampled_from(["", "\\", "#", " "]),
    DIGESTS,
    st.sampled_from([" ", "*", "\t", ""]),
    st.text("ab\\nr \r\n\u2028", max_size=6),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)


@pytest.fixture
def digits(digits_folders, tmp_path):
    """A folder of ten digits in two class folders."""
    for label in ("3", "7"):
        (tmp_path / "digits" / label).mkdir(parents=True)
        for path in sorted((digits_folders / "val" / label).iterdir())[:5]:
            shutil.copy(path, tmp_path / "digits" / label / path.name)
    return tmp_path / "digits"


@pytest.fixture
def odd(tmp_path):
    """A folder of files with odd names, each holding its own."""
    (tmp_path / "odd").mkdir()
    for name in ODD_NAMES:
        (tmp_path / "odd" / name).write_bytes(name.encode())
    return tmp_path / "odd"


@pytest.fixture(scope="module")
def sha256sum():
    """GNU's command, run in a folder."""

    def run(folder, *arguments):
        command = ["sha256sum", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout

    if shutil.which("sha256sum") is None or b"GNU" not in run(".", "--version"):
        pytest.skip("there is no sha256sum of GNU's")
    return run


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("list") / "list.txt"


def listed(path, text):
    path.write_bytes(text.encode())
    return read_image_list(path)


def write(path, digests):
    write_image_list(path, [f"{digest}  {name}" for name, digest in digests.items()])


def digests_of(images):
    return {item.name: item.sha256 for item in images.items}


def names_of(images):
    return [item.name for item in images.items]


@pytest.mark.parametrize("mode", ["--text", "--binary"])
def test_what_sha256sum_writes_is_read(sha256sum, digits, odd, tmp_path, mode):
    for folder in (digits, odd):
        images = open_images(folder)
        (tmp_path / "list.txt").write_bytes(sha256sum(folder, mode, "--", *names_of(images)))
        digests = read_image_list(tmp_path / "list.txt")
        assert list(digests.items()) == list(digests_of(images).items())
        assert pick_images(images, digests, hint="") == images


def test_sha256sum_checks_what_is_written(sha256sum, digits, odd, tmp_path):
    for folder in (digits, odd):
        images = open_images(folder)
        write(tmp_path / "list.txt", digests_of(images))
        checked = sha256sum(folder, "--check", "--strict", "../list.txt")
        assert checked.count(b": OK") == len(images)


@given(digests=st.dictionaries(NAMES, DIGESTS, min_size=1))
def test_a_list_survives_being_written_and_read(scratch, digests):
    write(scratch, digests)
    assert list(read_image_list(scratch).items()) == list(digests.items())


@given(data=st.binary() | st.lists(LINES).map(lambda lines: "".join(lines).encode()))
def test_any_file_is_read_or_refused(scratch, data):
    scratch.write_bytes(data)
    try:
        digests = read_image_list(scratch)
    except DatasetError as error:
        assert error.message.startswith(f"{scratch}:")
        return
    write(scratch, digests)
    assert list(read_image_list(scratch).items()) == list(digests.items())


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (r"\{}  a\\b.png", "a\\b.png"), (r"\{} *a\nb.png", "a\nb.png"),
        (r"\{}  a\rb.png", "a\rb.png"), (r"\{}  a\\nb.png", r"a\nb.png"),
        (r"\{}  a\\\nb.png", "a\\\nb.png"),
        (r"{}  a\nb.png", r"a\nb.png"), (r"{}  a\\b.png", r"a\\b.png"),
    ],
)  # fmt: skip
def test_a_name_is_escaped_where_the_line_begins_with_a_backslash(tmp_path, entry, name):
    assert listed(tmp_path / "list.txt", entry.format(A)) == {name: A}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_remarks_empty_lines_and_capitals_do_not_matter(tmp_path, newline):
    lines = ["# photos of March", "", f"{B.upper()}  b.png", "  ", f"#{A}  x.png", f"{A} *a.png"]
    for end in (newline, ""):
        found = listed(tmp_path / "list.txt", newline.join(lines) + end)
        assert list(found.items()) == [("b.png", B), ("a.png", A)]


@pytest.mark.parametrize(
    "line",
    [
        "a.png", A, f"{A}  ", f"{A} a.png", f"{A}\ta.png", f"{A[1:]}  a.png", f"{A}a  a.png",
        f"g{A[1:]}  a.png", f" {A}  a.png", f"\\\\{A}  a.png", f"SHA256 (a.png) = {A}",
        f"\ufeff{A}  a.png", "\x89PNG", "\0",
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "list.txt"
    with pytest.raises(DatasetError, match=rf"^{re.escape(str(path))}:3: .* is no entry") as caught:
        listed(path, f"# remark\n{B}  b.png\n{line}\n")
    assert "SHA-256, two spaces, name" in caught.value.hint


@pytest.mark.parametrize(
    ("first", "second"),
    [(f"{A}  a.png", f"{B} *a.png"), (f"{A}  a\\b.png", f"\\{A}  a\\\\b.png")],
    ids=["plain", "escaped"],
)
def test_an_image_that_is_listed_twice_is_named(tmp_path, first, second):
    path = tmp_path / "list.txt"
    with pytest.raises(
        DatasetError, match=rf"^{re.escape(str(path))}:4: 'a.*\.png' is listed twice"
    ):
        listed(path, f"{first}\n\n{B}  b.png\n{second}\n")


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n\n"], ids=repr)
def test_a_list_of_nothing_is_refused(tmp_path, text):
    with pytest.raises(DatasetError, match=r"list\.txt: lists no image"):
        listed(tmp_path / "list.txt", text)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_missing_list_and_a_folder_are_refused(tmp_path, name):
    with pytest.raises(DatasetError, match=r"No such file|Is a directory") as caught:
        read_image_list(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


def test_images_are_picked_in_the_order_of_the_list(digits):
    images = open_images(digits)
    wanted = [images.items[index] for index in (7, 2, 9, 0)]
    picked = pick_images(images, {item.name: item.sha256 for item in wanted}, hint="")
    assert picked.items == tuple(wanted)
    assert (picked.name, picked.classes) == (images.name, images.classes)


def test_bundled_images_can_be_listed(tmp_path):
    images = open_images("digits:val").sample(7)
    write(tmp_path / "list.txt", digests_of(images))
    picked = pick_images(open_images("digits"), read_image_list(tmp_path / "list.txt"), hint="")
    assert (names_of(picked), digests_of(picked)) == (names_of(images), digests_of(images))


def test_missing_images_are_counted_and_the_first_is_named(digits):
    images = open_images(digits)
    digests = {images.items[0].name: A, "3/x.png": A, "7/y.png": B}
    with pytest.raises(
        DatasetError, match=r"2 of 3 images are not there, '3/x\.png' first"
    ) as caught:
        pick_images(images, digests, hint="give the folder")
    assert str(digits) in caught.value.message
    assert caught.value.hint == "give the folder"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_changed_images_are_counted_and_three_are_named(digits, count):
    images = open_images(digits)
    digests = digests_of(images)
    changed = [item.name for item in images.items[2 : 2 + count]]
    for name in changed:
        (digits / name).write_bytes(name.encode())
    with pytest.raises(StaleArtifactError, match=rf"{count} of 10 images are others now") as caught:
        pick_images(images, digests, hint="give the folder")
    assert caught.value.differences == {
        name: (digests[name], hashlib.sha256(name.encode()).hexdigest()) for name in changed[:3]
    }
    assert f"{changed[0]}: expected {digests[changed[0]][:12]}, found" in caught.value.message
    assert caught.value.hint == "give the folder"


@pytest.mark.parametrize("count", [None, 9])
def test_a_calibration_can_be_run_again_from_its_list(tiny_onnx, digits, tmp_path, count):
    settings = CalibrationSettings(max_images=count, seed=3)
    first = calibrate(tiny_onnx, open_images(digits), settings)
    write_image_list(tmp_path / "list.txt", first.images["files"])
    digests = read_image_list(tmp_path / "list.txt")
    shutil.copy(digits / names_of(open_images(digits))[0], digits / "7" / "more.png")
    picked = pick_images(open_images(digits), digests, hint="")
    again = calibrate(tiny_onnx, picked, CalibrationSettings())
    assert len(picked) == first.images["count"] == (count or 10)
    assert again.images == first.images
    assert again.tensors == first.tensors
    assert again.tensors_without_held_out == first.tensors_without_held_out
