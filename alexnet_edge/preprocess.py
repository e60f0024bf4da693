"""The one preprocessing contract: from an encoded image to the tensor that the network sees.

Training, calibration, parity and the camera all come through here, so the same pixels give the
same tensor bit for bit. A `PreprocessSpec` is frozen, has one hash, and travels with every
artifact.

    spec = PreprocessSpec(resize=256, crop=227)
    batch = spec.to_input([spec.decode(Path("cat.jpg"))])     # (1, 3, 227, 227) float32
"""

from __future__ import annotations

import dataclasses
import functools
import io
import operator
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.errors import ImageError, InputError

UInt8Array = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[Any]

MAX_PIXELS = 100_000_000
"""Images of more pixels are refused before they are decoded: 300 MB as RGB."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""The decoders in use (JPEG's reads MPO too); others of Pillow's never see untrusted bytes."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}
_ORIENTATION_TAG = 0x0112
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

# Pillow warns of sizes, EXIF and palettes; sizes are judged in `load_rgb`, by one rule. Images are
# decoded on threads, where `catch_warnings` would mix up the filters of the whole process; an
# application's own filters come before this one.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


@dataclasses.dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the network's input.

    Attributes:
        resize: length of the shorter side after resizing, in pixels; the aspect ratio stays.
        crop: side of the centre square that is cut out, in pixels; the network's input size.
        interpolation: `bilinear`, `bicubic` or `box`, each with antialiasing.
        color: channel order, `RGB`; `BGR` for networks that came from Caffe.
        mean: per channel in ``color`` order, of values in 0–1.
        std: likewise; greater than 0.
        input: `float32` (N, 3, crop, crop), normalized here; or `uint8` (N, crop, crop, 3),
            normalized in the graph.

    Raises:
        InputError: a value is out of its range.
    """

    resize: int = 256
    crop: int = 227
    interpolation: str = "bilinear"
    color: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input: str = "float32"

    def __post_init__(self) -> None:
        _require(1 <= self.crop <= self.resize, "crop", self.crop, f"1 to resize ({self.resize})")
        _require(self.resize <= 4096, "resize", self.resize, "at most 4096")
        _require(self.interpolation in _RESAMPLING, "interpolation", self.interpolation,
                 ", ".join(_RESAMPLING))  # fmt: skip
        _require(self.color in {"RGB", "BGR"}, "color", self.color, "RGB or BGR")
        _require(self.input in {"float32", "uint8"}, "input", self.input, "float32 or uint8")
        for name, low in (("mean", -1e6), ("std", 1e-6)):
            # 0, 0.0 and -0.0 are equal, so they must hash alike.
            values = tuple(float(value) + 0.0 for value in getattr(self, name))
            object.__setattr__(self, name, values)
            _require(
                len(values) == 3 and all(low <= value <= 1e6 for value in values),
                name, values, "three numbers" + (" above 0" if name == "std" else ""),
            )  # fmt: skip

    @classmethod
    def from_dict(cls, value: object, *, source: str) -> PreprocessSpec:
        """Read a spec from a JSON object, refusing unknown and missing keys.

        Raises:
            InputError: naming ``source`` and the key.
        """
        keys = [field.name for field in dataclasses.fields(cls)]
        hint = f"its keys are {', '.join(keys)}"
        if not isinstance(value, dict):
            raise InputError(f"{source}: preprocess is not an object", hint=hint)
        for key in sorted(set(value) ^ set(keys)):
            state = "unknown" if key in value else "missing"
            raise InputError(f"{source}: preprocess.{key} is {state}", hint=hint)
        try:
            fields: dict[str, Any] = {
                **{key: str(value[key]) for key in ("interpolation", "color", "input")},
                **{key: operator.index(value[key]) for key in ("resize", "crop")},
                **{key: tuple(float(x) for x in value[key]) for key in ("mean", "std")},
            }
            return cls(**fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{source}: preprocess is malformed ({error})", hint=hint) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        fields = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    @property
    def sha256(self) -> str:
        """The hash by which artifacts tell whether they share one preprocessing."""
        return sha256_json(self.to_dict())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one input without its batch axis: (3, H, W), or (H, W, 3) for `uint8`."""
        if self.input == "uint8":
            return (self.crop, self.crop, 3)
        return (3, self.crop, self.crop)

    def with_input(self, kind: str) -> PreprocessSpec:
        """Return the same preprocessing with `float32` or `uint8` network input."""
        return dataclasses.replace(self, input=kind)

    def differences(self, other: PreprocessSpec) -> dict[str, tuple[object, object]]:
        """Return the fields in which ``other`` prepares other pixels: name to (ours, theirs).

        ``input`` is not among them: it says where the normalization happens, not what it does.
        """
        ours, theirs = self.to_dict(), other.to_dict()
        return {
            f"preprocess.{key}": (ours[key], theirs[key])
            for key in ours
            if key != "input" and ours[key] != theirs[key]
        }

    def decode(self, source: Path | bytes) -> UInt8Array:
        """Decode, orient, resize and crop one image.

        Returns:
            (crop, crop, 3) uint8 in ``color`` order.

        Raises:
            ImageError: the file is no image, is truncated, or is too large.
        """
        return self.crop_center(self.resize_shorter(load_rgb(source)))

    def from_rgb(self, pixels: UInt8Array) -> UInt8Array:
        """Resize and crop an (H, W, 3) uint8 RGB array: a camera frame, say."""
        return self.crop_center(self.resize_shorter(Image.fromarray(pixels)))

    def resize_shorter(self, image: Image.Image) -> UInt8Array:
        """Resize an RGB image so that its shorter side is ``resize``.

        Returns:
            (H, W, 3) uint8 in ``color`` order, min(H, W) = ``resize``. Sides that are longer
            than 64 times the shorter are cut to that around the centre first.
        """
        image = _limit_aspect(image)
        width, height = image.size
        shorter = min(width, height)
        size = (self.resize * width // shorter, self.resize * height // shorter)
        if size != image.size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        pixels = np.asarray(image)
        return pixels[:, :, ::-1] if self.color == "BGR" else pixels

    def crop_center(self, pixels: UInt8Array) -> UInt8Array:
        """Cut the centre square out of (H, W, 3)."""
        top = (pixels.shape[0] - self.crop) // 2
        left = (pixels.shape[1] - self.crop) // 2
        return pixels[top : top + self.crop, left : left + self.crop]

    def to_input(self, crops: Sequence[UInt8Array], buffer: AnyArray | None = None) -> AnyArray:
        """Stack crops (crop, crop, 3) into the network's input batch.

        Args:
            crops: N of them.
            buffer: memory to write to, for at least N crops; the result is a view of it.

        Returns:
            (N, crop, crop, 3) uint8, or (N, 3, crop, crop) float32 equal to
            ``(x / 255 - mean) / std``.
        """
        if buffer is None:
            buffer = np.empty((len(crops), *self.input_shape), self.input)
        batch = buffer[: len(crops)]
        if self.input == "uint8":
            np.stack(crops, out=batch)
            return batch
        scale, shift = self.affine
        for row, pixels in zip(batch, crops, strict=True):
            np.multiply(pixels.transpose(2, 0, 1), scale, out=row)
            np.add(row, shift, out=row)
        return batch

    def levels(self) -> npt.NDArray[np.float32]:
        """Return (3, 256) float32: what `to_input` makes of each byte of each channel."""
        scale, shift = (array.reshape(3, 1) for array in self.affine)
        found = np.empty((3, 256), np.float32)
        np.multiply(np.arange(256, dtype=np.uint8), scale, out=found)
        np.add(found, shift, out=found)
        return found

    @functools.cached_property
    def affine(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift, (3, 1, 1) float32 each: normalized = pixel · scale + shift."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scale, shift = 1 / (255 * std), -mean / std
        return scale.astype(np.float32).reshape(3, 1, 1), shift.astype(np.float32).reshape(3, 1, 1)


def load_rgb(source: Path | bytes) -> Image.Image:
    """Decode one image file to upright 8-bit RGB.

    EXIF orientation is applied; grayscale, palette and CMYK are converted; 16-bit samples keep
    their upper byte; alpha is dropped, as the loaders that networks are trained with do.

    Raises:
        ImageError: the file is no image, is truncated, or has more than `MAX_PIXELS` pixels.
    """
    name = str(source) if isinstance(source, Path) else "image"
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: {image.width}×{image.height} pixels are more than "
                    f"{MAX_PIXELS // 1_000_000} megapixels",
                    hint="scale it down; sizes like this are refused as decompression bombs",
                )
            return to_rgb(image, name)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name}: more than {MAX_PIXELS // 1_000_000} megapixels",
            hint="scale it down; sizes like this are refused as decompression bombs",
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error,
            OverflowError, KeyError) as error:  # fmt: skip
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else f"{error}"
        reason = reason.removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
        raise ImageError(f"{name}: {reason}", hint="replace or remove the file") from error


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Turn an opened image to upright 8-bit RGB, as `load_rgb` says.

    Args:
        image: as Pillow opened it.
        name: of it, for errors.

    Raises:
        ImageError: it has floating-point samples.
    """
    image.load()
    upright = ImageOps.exif_transpose(image) if _is_turned(image) else image
    if upright.mode == "RGB":
        return upright
    if upright.mode in _SIXTEEN_BIT_MODES:
        samples = np.clip(np.asarray(upright).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if upright.mode == "F":
        raise ImageError(f"{name}: floating-point samples", hint="store it with 8 or 16 bits")
    return upright.convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(_ORIENTATION_TAG, 1) != 1)


def _limit_aspect(image: Image.Image, ratio: int = 64) -> Image.Image:
    """Cut a strip to ``ratio`` times its shorter side: a 1×50,000 image must not explode."""
    width, height = image.size
    longest = ratio * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"preprocess {name} is {value}", hint=f"give {expected}")
