"""Calibration caches: TensorRT's text, read and written without loss; all else is refused."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.errors import TableError
from alexnet_edge.quantize.trt_cache import (
    ALGORITHMS,
    CalibrationCache,
    encode_version,
    load_cache,
    parse_version,
    read_cache,
)

TEXT = (
    "TRT-8502-EntropyCalibration2\n"
    "input: 3c010204\n"
    "features/0: out: 3d2f1c3a\n"
    "(Unnamed Layer* 3) [Constant]_output: 00000000\n"
)
HEADER = TEXT.splitlines()[0]
NUMBERS = {
    (7, 0, 0): 7000, (8, 5, 2): 8502, (8, 6, 1): 8601, (8, 5, 10): 8510, (9, 3, 0): 9300,
    (10, 0, 1): 100001, (10, 3, 0): 100300, (10, 13, 2): 101302,
}  # fmt: skip

EXAMPLES = st.sampled_from(
    ["input", "/net/conv: 0/Relu", "conv1: 3c010204", "2:0", "名前", "#", ":"]
)
NAMES = EXAMPLES | st.text(min_size=1).filter(
    lambda name: name == name.strip() and len(name.splitlines()) == 1
)
LINES = st.builds(
    "{}: {}{}".format,
    st.text("ab: \r\u2028", max_size=3),
    st.sampled_from(["3c010204", "3C010204", "80000000", "7fc00000", "3c"]),
    st.sampled_from(["\n", "\r\n", "\n\n", ""]),
)
SCALES = st.floats(0, 2.0**64, width=32)
VERSIONS = st.sampled_from(list(NUMBERS))


@st.composite
def caches(draw):
    scales = draw(st.dictionaries(NAMES, SCALES, min_size=1, max_size=8))
    amax = {name: scale * 127 for name, scale in scales.items()}
    return CalibrationCache(draw(VERSIONS), draw(st.sampled_from(ALGORITHMS)), amax)


@st.composite
def edited(draw):
    """A valid file in which a few bytes are replaced, inserted, repeated or removed."""
    data = bytearray(draw(caches()).to_text().encode())
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        middle = draw(st.binary(max_size=4) | st.just(bytes(data[start : start + length])))
        data[start : start + draw(st.sampled_from([0, length]))] = middle
    return bytes(data)


def read(text):
    return read_cache(text, source="calib.cache")


def assert_read_or_refused(find, source):
    try:
        cache = find()
    except TableError as error:
        assert error.message.startswith(f"{source}:")
        assert error.hint
        return
    assert read(cache.to_text()) == cache


@given(caches())
def test_a_cache_survives_being_written_and_read(cache):
    assert read(cache.to_text()) == cache
    assert list(read(cache.to_text()).amax) == list(cache.amax), "in the order of the file"
    assert read(cache.to_text()).to_text() == cache.to_text()


@given(NAMES, st.floats(1e-30, 1e18), VERSIONS)
def test_any_range_is_kept_to_float32(name, amax, version):
    cache = CalibrationCache(version, ALGORITHMS[0], {name: amax})
    assert read(cache.to_text()).amax == {name: pytest.approx(amax, rel=2**-24)}


def test_a_file_of_tensorrt_is_read_and_written_as_it_is(tmp_path):
    (tmp_path / "calib.cache").write_bytes(TEXT.encode())
    cache = load_cache(tmp_path / "calib.cache")
    assert (cache.version, cache.algorithm) == ((8, 5, 2), "EntropyCalibration2")
    assert cache.amax == {
        "input": pytest.approx(1, rel=1e-7),
        "features/0: out": struct.unpack(">f", bytes.fromhex("3d2f1c3a"))[0] * 127,
        "(Unnamed Layer* 3) [Constant]_output": 0,
    }
    cache.save(tmp_path / "again.cache")
    assert (tmp_path / "again.cache").read_bytes() == TEXT.encode()


@pytest.mark.parametrize(
    ("amax", "digits"), [(1, "3c010204"), (127, "3f800000"), (0, "00000000"), (127e-42, "000002ca")]
)
def test_the_value_is_amax_by_127_as_eight_zero_padded_digits(amax, digits):
    cache = CalibrationCache((10, 3, 0), "MinMaxCalibration", {"x": amax})
    assert cache.to_text() == f"TRT-100300-MinMaxCalibration\nx: {digits}\n"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("version", "number"), NUMBERS.items(), ids=str)
def test_the_first_line_names_the_version_and_the_calibrator(version, number, algorithm):
    cache = CalibrationCache(version, algorithm, {"x": 0.0})
    assert encode_version(version) == number
    assert cache.to_text().splitlines()[0] == f"TRT-{number}-{algorithm}"
    assert read(cache.to_text()) == cache


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"), TEXT.removesuffix("\n"), TEXT.replace("\n", "\n\n"),
        TEXT.replace("3d2f1c3a", "3D2F1C3A"),
    ],
    ids=["CRLF", "no final newline", "empty lines", "capitals"],
)  # fmt: skip
def test_what_editors_do_to_a_file_does_not_matter(text):
    assert read(text) == read(TEXT)
    assert read(text).to_text() == TEXT


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        *((line, f"'{line}' is not 'TENSOR: 8 hex digits'") for line in (
            "input", "input 3c010204", "input:3c010204", ": 3c010204", "input: 3c01020",
            "input: 03c010204", "input: 3c01020g", "input: 0x3c0102", "input: 3c010204 ",
            " input: 3c010204", "in\rput: 3c010204", "in\u2028put: 3c010204", "   ", "# a remark",
            HEADER,
        )),
        ("fc: 7fc00000", "scale of 'fc' is nan"), ("fc: ffc00000", "scale of 'fc' is nan"),
        ("fc: 7f800000", "scale of 'fc' is inf"), ("fc: ff800000", "scale of 'fc' is -inf"),
        ("fc: bc010204", "scale of 'fc' is -0.0078"), ("fc: 5f800001", "scale of 'fc' is 1.8"),
        ("input: 3c010204", "'input' comes twice"),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_malformed_line_is_named(tmp_path, line, problem, ending):
    path = tmp_path / "calib.cache"
    path.write_bytes(ending.join([HEADER, "input: 3c010204", "", line, "z: 0", ""]).encode())
    with pytest.raises(TableError) as caught:
        load_cache(path)
    assert caught.value.message.startswith(f"{path}:4: ")
    assert problem in caught.value.message
    assert "calibrate MODEL.onnx" in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "", "input: 3c010204", "TRT-8502-EntropyCalibration", "TRT-8502-LegacyCalibration",
        "TRT-8502-", "trt-8502-MinMaxCalibration", " TRT-8502-MinMaxCalibration",
        "TRT-8502-MinMaxCalibration ", "\ufeffTRT-8502-MinMaxCalibration",
        "TRT-852-MinMaxCalibration", "TRT-10300-MinMaxCalibration", "TRT-008502-MinMaxCalibration",
        "TRT-٨٥٠٢-MinMaxCalibration", "TRT-6001-MinMaxCalibration", "TRT-110000-MinMaxCalibration",
    ],
)  # fmt: skip
def test_another_first_line_is_refused(line):
    with pytest.raises(TableError, match=r"^calib\.cache:1: .* is not the first line") as caught:
        read(f"{line}\ninput: 3c010204\n")
    assert "TRT-100300-EntropyCalibration2" in caught.value.hint


@pytest.mark.parametrize(("text", "line"), [(HEADER, 1), (HEADER + "\n", 2), (HEADER + "\n\n", 3)])
def test_a_cache_without_tensors_is_refused(text, line):
    with pytest.raises(TableError, match=rf"^calib\.cache:{line}: there is no tensor"):
        read(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "1: '' is not the first line"),
        (TEXT.encode("utf-16"), " is not a calibration cache .*byte 0xff"),
        (TEXT.replace("0: out", "é").encode("latin-1"), " is not a calibration cache .*byte 0xe9"),
        (TEXT.encode() + bytes(16 << 20), " is too large for a cache"),
    ],
    ids=["empty", "UTF-16", "Latin-1", "16 MiB"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, problem):
    path = tmp_path / "calib.cache"
    path.write_bytes(content)
    with pytest.raises(TableError, match=rf"calib\.cache:{problem}"):
        load_cache(path)


@pytest.mark.parametrize("name", ["missing.cache", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    with pytest.raises(TableError, match="is not a calibration cache"):
        load_cache(tmp_path / name)


@given(st.text() | st.lists(LINES).map(lambda lines: "".join((HEADER, "\n", *lines))))
def test_any_text_is_read_or_refused(text):
    assert_read_or_refused(lambda: read(text), "calib.cache")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "calib.cache"


@given(data=st.binary() | edited())
def test_any_file_is_read_or_refused(scratch, data):
    scratch.write_bytes(data)
    assert_read_or_refused(lambda: load_cache(scratch), scratch)


@pytest.mark.parametrize(
    "name", ["", " ", "a ", "\ta", "a\n", "a\nb", "a\r\nb", "a\x0cb", "a\u2028b"]
)
def test_a_name_that_is_no_line_cannot_be_written(name):
    with pytest.raises(TableError, match="cannot be named"):
        CalibrationCache((10, 3, 0), ALGORITHMS[0], {name: 1.0}).to_text()


@pytest.mark.parametrize("amax", [math.nan, math.inf, -math.inf, -1.0, 1e30])
def test_a_range_that_is_none_cannot_be_written(tmp_path, amax):
    with pytest.raises(TableError, match="tensor 'fc': its range is ") as caught:
        CalibrationCache((10, 3, 0), ALGORITHMS[0], {"fc": amax}).save(tmp_path / "calib.cache")
    assert caught.value.message.endswith(str(amax))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "version", [(6, 0, 1), (11, 0, 0), (8, 10, 0), (10, 100, 0), (10, 0, 100), (8, -1, 0)]
)
def test_a_version_that_has_no_cache_cannot_be_written(version):
    with pytest.raises(TableError, match=r"TensorRT {}\.{}\.{}".format(*version)):
        CalibrationCache(version, ALGORITHMS[0], {"x": 1.0}).to_text()


@pytest.mark.parametrize(
    ("text", "version"),
    [("10.3.0", (10, 3, 0)), ("10.3", (10, 3, 0)), ("8", (8, 0, 0)), ("8.5.2.2", (8, 5, 2))],
)
def test_versions_may_be_abbreviated(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "8.", "v8.5", "8.5.x", "8502", "-8.5", "8.5.2.2.2", "8.5\n"])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(TableError, match="is no TensorRT version"):
        parse_version(text)
