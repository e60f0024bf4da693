"""An ONNX model without its weights, which stay in the file until they are read one by one.

ONNX keeps a network's weights inside one protobuf message; parsing it copies all of them, and
whatever then changes or serializes the model copies them again. `read_bare` leaves them out: the
message that it returns is a few kilobytes, and refers to each weight by its place in the same file,
in ONNX's own form for external data. ONNX Runtime maps that file, and copies nothing either.

    model = read_bare(Path("alexnet.onnx"))
    weights = read_weights(model, Path("."))     # name to array

The format is Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding) and the field
numbers those of onnx.proto.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
import onnx
import onnx.helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from alexnet_edge.preprocess import AnyArray

SMALL_BYTES = 4096
"""Initializers of at most this size stay inside: scales, shapes and most biases."""

_RAW_DATA = (7, 5, 9)  # ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_bare(path: Path) -> onnx.ModelProto:
    """Read a model; its larger weights stay in the file, as external data of it.

    Raises:
        ValueError: the file is truncated or no protobuf message.
        google.protobuf.message.DecodeError: it is not an ONNX model.
    """
    with _mapped(path) as view:
        model = onnx.ModelProto()
        # ONNX Runtime refuses a link that leads out of its folder, so the file itself is named.
        model.ParseFromString(_strip(view, 0, len(view), _RAW_DATA, path.resolve().name))
        return model


def read_weights(model: onnx.ModelProto, folder: Path) -> dict[str, AnyArray]:
    """Read the weights that `read_bare` left in the file, which lies in ``folder``.

    Raises:
        OSError: a file of external data is missing.
        ValueError: an initializer's bytes do not fill its shape.
    """
    weights = {}
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            with open_weight(tensor, folder) as view:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                # A copy, because protobuf aligns nothing.
                weights[tensor.name] = np.frombuffer(view, dtype).reshape(tensor.dims).copy()
    return weights


@contextlib.contextmanager
def open_weight(tensor: onnx.TensorProto, folder: Path) -> Iterator[memoryview]:
    """Yield the bytes of one weight, as they are in its file.

    Raises:
        OSError: the file is missing.
        ValueError: they do not fill the weight's shape, or lie outside of the folder.
    """
    place = ExternalDataInfo(tensor)
    location = PurePath(place.location)
    if location.is_absolute() or ".." in location.parts:  # onnx and ONNX Runtime refuse it too
        raise ValueError(f"initializer '{tensor.name}' lies outside of the folder, at {location}")
    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    expected = math.prod(tensor.dims) * item
    with _mapped(folder / location) as view:
        start = place.offset or 0
        found = min(place.length or expected, len(view) - start)
        if found != expected or min([start, *tensor.dims]) < 0:
            raise ValueError(f"initializer '{tensor.name}' has {found} bytes, its shape {expected}")
        with view[start : start + expected] as part:
            yield part


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def _strip(view: memoryview, start: int, end: int, path: Sequence[int], name: str) -> bytes:
    """Return the message in view[start:end] without the large fields at the end of ``path``."""
    chunks: list[bytes] = []  # copies: a view that an error keeps alive keeps the file mapped
    for number, wire, begin, value, stop in _fields(view, start, end):
        if number != path[0] or wire != _BYTES:
            chunks.append(bytes(view[begin:stop]))
        elif len(path) > 1:
            inner = _strip(view, value, stop, path[1:], name)
            chunks += (_varint(number << 3 | wire), _varint(len(inner)), inner)
        elif stop - value <= SMALL_BYTES:
            chunks.append(bytes(view[begin:stop]))
        else:
            chunks.append(_reference(name, value, stop - value))
    return b"".join(chunks)


def _reference(name: str, offset: int, length: int) -> bytes:
    """Return fields of a TensorProto that stand for its bytes: messages merge when joined."""
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    serialized: bytes = tensor.SerializeToString()
    return serialized


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield each field's number, wire type, begin, begin of its value, and end."""
    while at < end:
        begin = at
        tag, at = _read_varint(view, at, end)
        wire, value = tag & 7, at
        if wire == _VARINT:
            at = _read_varint(view, at, end)[1]
        elif wire == _BYTES:
            length, value = _read_varint(view, at, end)
            at = value + length
        elif wire in {_FIXED64, _FIXED32}:
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf message at byte {begin}")
        if at > end:
            raise ValueError(f"truncated at byte {begin}")
        yield tag >> 3, wire, begin, value, at


def _read_varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"truncated at byte {at}")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
