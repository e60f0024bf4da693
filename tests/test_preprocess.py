"""The preprocessing contract: specs, decoding of every kind of image, geometry and tensors."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_edge.errors import ImageError, InputError
from alexnet_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, PreprocessSpec, load_rgb

# pytest replaces the filters that the package sets when it is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning"
)

RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ORIENTATION = 0x0112

STORED_FROM_UPRIGHT = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""The pixels of a file whose EXIF orientation turns them upright (EXIF 2.32, tag 0x0112)."""

KERNELS = {
    "bilinear": (1.0, lambda x: np.clip(1 - np.abs(x), 0, None)),
    "bicubic": (
        2.0,
        lambda x: np.select(
            [np.abs(x) < 1, np.abs(x) < 2],
            [
                1.5 * np.abs(x) ** 3 - 2.5 * x**2 + 1,
                -0.5 * np.abs(x) ** 3 + 2.5 * x**2 - 4 * np.abs(x) + 2,
            ],
            0.0,
        ),
    ),
}


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, *, depth, color, rows=b""):
    """A PNG made by hand: of sizes and depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def decoded(data):
    image = load_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def resample(pixels, size, interpolation):
    """Antialiased resampling along the first axis, as a plain sum over the kernel."""
    radius, kernel = KERNELS[interpolation]
    scale = pixels.shape[0] / size
    stretch = max(scale, 1.0)
    centers = (np.arange(size) + 0.5) * scale
    distance = (np.arange(pixels.shape[0]) + 0.5 - centers[:, None]) / stretch
    weights = np.where(np.abs(distance) <= radius, kernel(distance), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(np.tensordot(weights, pixels, axes=1), 0, 255)


# --- the spec -----------------------------------------------------------------------------------

numbers = st.integers(-3, 3) | st.floats(-1e6, 1e6)
positives = st.integers(1, 3) | st.floats(1e-6, 1e6)


@st.composite
def specs(draw):
    resize = draw(st.integers(1, 4096))
    return PreprocessSpec(
        resize=resize,
        crop=draw(st.integers(1, resize)),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "box"])),
        color=draw(st.sampled_from(["RGB", "BGR"])),
        mean=draw(st.tuples(numbers, numbers, numbers)),
        std=draw(st.tuples(positives, positives, positives)),
        input=draw(st.sampled_from(["float32", "uint8"])),
    )


@settings(deadline=None)
@given(specs())
def test_a_spec_survives_json_with_its_hash(spec):
    reread = PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict())), source="x.json")
    assert reread == spec
    assert reread.sha256 == spec.sha256


def test_equal_specs_have_equal_hashes_however_their_numbers_are_written():
    integers = PreprocessSpec(mean=(0, 0, 0), std=(1, 1, 1))
    floats = PreprocessSpec(mean=(0.0, -0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert integers == floats
    assert integers.sha256 == floats.sha256


OTHER_VALUES = {
    "resize": 300,
    "crop": 224,
    "interpolation": "box",
    "color": "BGR",
    "mean": (0.5, 0.456, 0.406),
    "std": (0.229, 0.224, 0.5),
    "input": "uint8",
}


@pytest.mark.parametrize(("key", "value"), OTHER_VALUES.items())
def test_every_field_changes_the_hash_and_only_input_is_no_difference(key, value):
    default, other = PreprocessSpec(), PreprocessSpec(**{key: value})
    assert default.sha256 != other.sha256
    expected = set() if key == "input" else {f"preprocess.{key}"}
    assert set(default.differences(other)) == expected


def test_differences_give_our_value_and_theirs():
    differences = PreprocessSpec(resize=256).differences(PreprocessSpec(resize=300))
    assert differences == {"preprocess.resize": (256, 300)}


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_missing_key_is_refused_by_name(key):
    value = PreprocessSpec().to_dict()
    del value[key]
    with pytest.raises(InputError, match=rf"model\.onnx: preprocess\.{key} is missing"):
        PreprocessSpec.from_dict(value, source="model.onnx")


def test_an_unknown_key_is_refused_by_name_and_the_known_ones_are_listed():
    value = PreprocessSpec().to_dict() | {"sharpen": True}
    with pytest.raises(InputError, match=r"preprocess\.sharpen is unknown") as caught:
        PreprocessSpec.from_dict(value, source="model.onnx")
    assert all(key in caught.value.hint for key in OTHER_VALUES)


@pytest.mark.parametrize("value", [None, [], "bilinear", 256])
def test_a_spec_that_is_not_an_object_is_refused(value):
    with pytest.raises(InputError, match="preprocess is not an object"):
        PreprocessSpec.from_dict(value, source="model.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize", 256.5),
        ("resize", float("inf")),
        ("crop", "227"),
        ("crop", None),
        ("mean", 0.5),
        ("mean", ["a", "b", "c"]),
        ("std", [10**400, 1, 1]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_not_rounded(key, value):
    with pytest.raises(InputError, match="preprocess is malformed"):
        PreprocessSpec.from_dict(PreprocessSpec().to_dict() | {key: value}, source="model.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize", 226),
        ("resize", 4097),
        ("crop", 0),
        ("crop", -227),
        ("crop", 257),
        ("interpolation", "lanczos"),
        ("color", "rgb"),
        ("input", "int8"),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("std", (0.5, 0.5, 0.5, 0.5)),
        ("std", (0.5, 0.0, 0.5)),
        ("std", (0.5, 0.5, -0.5)),
        ("std", (0.5, 0.5, float("inf"))),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_the_range(key, value):
    with pytest.raises(InputError, match=rf"preprocess ({key}|crop) is ") as caught:
        PreprocessSpec(**{key: value})
    assert caught.value.hint.startswith("give ")


@pytest.mark.parametrize(("resize", "crop"), [(1, 1), (4096, 4096), (4096, 1)])
def test_the_ends_of_the_ranges_are_allowed(resize, crop):
    assert PreprocessSpec(resize=resize, crop=crop).input_shape == (3, crop, crop)


# --- decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_exif_orientation_gives_the_same_upright_picture(kind, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED_FROM_UPRIGHT[orientation](PICTURE))
    data = encode(Image.fromarray(stored), kind, exif=exif, **options)
    np.testing.assert_array_equal(decoded(data), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_of_every_orientation_is_upright(orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED_FROM_UPRIGHT[orientation](upright))
    pixels = decoded(encode(Image.fromarray(stored), "JPEG", exif=exif))
    np.testing.assert_allclose(pixels.astype(int), upright, atol=4)


def test_orientation_comes_before_resizing_and_cropping(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned, upright = tmp_path / "turned.png", tmp_path / "upright.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(PICTURE))).save(turned, exif=exif)
    Image.fromarray(PICTURE).save(upright)
    spec = PreprocessSpec(resize=10, crop=8)
    np.testing.assert_array_equal(spec.decode(turned), spec.decode(upright))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(PICTURE), exif=exif)
    np.testing.assert_array_equal(decoded(data), PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grayscale_has_three_equal_channels(kind):
    gray = PICTURE[..., 0]
    pixels = decoded(encode(Image.fromarray(gray), kind))
    np.testing.assert_array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_one_bit_images_are_black_and_white(kind):
    bits = PICTURE[..., 0] > 127
    pixels = decoded(encode(Image.fromarray(bits), kind))
    np.testing.assert_array_equal(pixels, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
INDICES = RNG.integers(0, 3, (12, 9), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"transparency": 1}),
        ("PNG", {"transparency": bytes([0, 128, 255])}),
        ("GIF", {}),
        ("GIF", {"transparency": 2}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_palette_images_show_their_colours_whatever_is_transparent(kind, options):
    image = Image.fromarray(INDICES)
    image.putpalette(PALETTE.tobytes())
    np.testing.assert_array_equal(decoded(encode(image, kind, **options)), PALETTE[INDICES])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_and_the_colours_stay(kind, channels):
    colours = PICTURE[..., :channels]
    alpha = RNG.integers(0, 256, (*PICTURE.shape[:2], 1), dtype=np.uint8)
    image = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    assert image.mode in {"LA", "RGBA"}
    np.testing.assert_array_equal(
        decoded(encode(image, kind)), np.broadcast_to(colours, PICTURE.shape)
    )


@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_read_as_ink(kind, inks, colour):
    pixels = decoded(encode(Image.new("CMYK", (16, 16), inks), kind))
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(colour, (16, 16, 3)), atol=4)


SIXTEEN_BIT = np.array([[0, 1, 255, 256, 257], [32767, 32768, 65279, 65280, 65535]], np.uint16)


def sixteen_bit_gray(kind):
    height, width = SIXTEEN_BIT.shape
    big_endian = SIXTEEN_BIT.astype(">u2")
    if kind == "PNG by hand":
        rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
        return png(width, height, depth=16, color=0, rows=rows)
    if kind == "PGM":
        return f"P5 {width} {height} 65535\n".encode() + big_endian.tobytes()
    return encode(Image.fromarray(SIXTEEN_BIT), kind)


@pytest.mark.parametrize("kind", ["PNG", "PNG by hand", "TIFF", "PGM"])
def test_sixteen_bit_grayscale_keeps_its_upper_byte(kind):
    expected = np.repeat((SIXTEEN_BIT >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoded(sixteen_bit_gray(kind)), expected)


def test_sixteen_bit_colour_keeps_its_upper_byte():
    samples = RNG.integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2"))
    pixels = decoded(png(5, 4, depth=16, color=2, rows=rows))
    np.testing.assert_array_equal(pixels, samples >> 8)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    expected = np.broadcast_to((255, 0, 0), (16, 16, 3))
    np.testing.assert_allclose(decoded(data).astype(int), expected, atol=4)


def test_a_file_and_its_bytes_give_the_same_picture(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(PICTURE).save(path)
    np.testing.assert_array_equal(load_rgb(path), load_rgb(path.read_bytes()))


def test_the_suffix_does_not_matter(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(Image.fromarray(PICTURE), "PNG"))
    np.testing.assert_array_equal(load_rgb(path), PICTURE)


def test_warnings_of_pillow_stay_off_standard_error(tmp_path):
    image = Image.fromarray(INDICES)
    image.putpalette(PALETTE.tobytes())
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    script = (
        "import pathlib, sys; from alexnet_edge.preprocess import load_rgb;"
        "print(load_rgb(pathlib.Path(sys.argv[1])).size)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "palette.png")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (process.stdout, process.stderr) == ("(9, 12)\n", "")


JPEG = encode(Image.fromarray(np.repeat(PICTURE, 8, axis=0)), "JPEG")
REFUSED = {
    "empty file": (b"", "not an image"),
    "text": (b"holiday pictures, see the other folder\n" * 20, "not an image"),
    "only a signature": (b"\xff\xd8\xff", "."),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated PNG": (encode(Image.fromarray(PICTURE))[:-200], "."),
    "PNG without pixels": (png(50, 40, depth=8, color=2), "."),
    "bomb": (png(20_000, 20_000, depth=8, color=2), "more than 100 megapixels"),
    "small bomb": (png(12_000, 12_000, depth=1, color=0), "12000×12000 pixels are more than"),
    "one row too many": (png(10_000, 10_001, depth=1, color=0), "10000×10001 pixels"),
    "float TIFF": (encode(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point samples"),
    "format not in use": (encode(Image.fromarray(PICTURE), "ICO"), "not an image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_whole_picture_is_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=rf"holiday\.jpg: .*{reason}") as caught:
        load_rgb(path)
    assert caught.value.hint
    with pytest.raises(ImageError, match=f"^image: .*{reason}"):
        load_rgb(data)


@pytest.mark.parametrize("name", ["missing.jpg", "folder"])
def test_a_path_without_a_file_is_refused_by_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError, match=f"{name}: ") as caught:
        load_rgb(tmp_path / name)
    assert "Errno" not in caught.value.message


INTACT = [
    encode(Image.fromarray(PICTURE), kind)
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(INTACT),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
    st.integers(0, 3000),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(data, changes, length):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        image = load_rgb(bytes(damaged[: max(length, len(damaged) - length)]))
    except ImageError as error:
        assert error.message.startswith("image: ")
    else:
        assert image.mode == "RGB"


# --- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize(
    ("height", "width"), [(40, 40), (61, 40), (40, 97), (23, 17), (9, 16), (120, 95)]
)
def test_resizing_is_the_sum_over_the_antialiased_kernel(height, width, interpolation):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    spec = PreprocessSpec(resize=24, crop=20, interpolation=interpolation)
    size = (24 * height // min(height, width), 24 * width // min(height, width))
    # Rows first, as in Pillow: bicubic overshoots are clipped in between.
    rows = resample(pixels.swapaxes(0, 1).astype(float), size[1], interpolation).swapaxes(0, 1)
    expected = resample(rows, size[0], interpolation)
    top, left = (size[0] - 20) // 2, (size[1] - 20) // 2
    np.testing.assert_allclose(
        spec.from_rgb(pixels).astype(float), expected[top : top + 20, left : left + 20], atol=1.5
    )


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_box_by_a_whole_factor_is_the_mean_of_each_block(factor):
    pixels = RNG.integers(0, 256, (12 * factor, 15 * factor, 3), dtype=np.uint8)
    means = pixels.reshape(12, factor, 15, factor, 3).mean(axis=(1, 3))
    resized = PreprocessSpec(resize=12, crop=12, interpolation="box").from_rgb(pixels)
    np.testing.assert_allclose(resized.astype(float), means[:, 1:13], atol=1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40).flatmap(lambda r: st.tuples(st.just(r), st.integers(1, r))),
)
def test_the_shorter_side_is_resize_and_the_crop_is_square(height, width, sizes):
    resize, crop = sizes
    spec = PreprocessSpec(resize=resize, crop=crop)
    resized = spec.resize_shorter(Image.new("RGB", (width, height), (9, 8, 7)))
    shorter = min(height, width)
    assert resized.shape == (resize * height // shorter, resize * width // shorter, 3)
    cropped = spec.crop_center(resized)
    assert cropped.shape == (crop, crop, 3)
    assert (cropped == (9, 8, 7)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12))
def test_an_image_of_the_right_size_is_only_cropped_about_its_centre(more, margin, crop):
    resize = crop + margin
    rows, columns = np.mgrid[:resize, : resize + more].astype(np.uint8)
    pixels = np.dstack([rows, columns, rows])
    result = PreprocessSpec(resize=resize, crop=crop).from_rgb(pixels)
    top, left = margin // 2, (margin + more) // 2
    np.testing.assert_array_equal(result[:, 0, 0], np.arange(top, top + crop))
    np.testing.assert_array_equal(result[0, :, 1], np.arange(left, left + crop))


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 9999), (1, 1)])
def test_strips_are_shown_around_their_centre(tmp_path, shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    middle = tuple(slice(max(0, side // 2 - 3), side // 2 + 3) for side in shape)
    pixels[middle] = (250, 20, 3)
    path = tmp_path / "strip.png"
    Image.fromarray(pixels).save(path)
    spec = PreprocessSpec(resize=256, crop=227)
    crop = spec.decode(path)
    assert crop.shape == (227, 227, 3)
    assert tuple(crop[113, 113]) == (250, 20, 3)
    assert spec.resize_shorter(load_rgb(path)).size <= 3 * 64 * 256**2


def test_decode_and_from_rgb_are_one_way(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    spec = PreprocessSpec(resize=16, crop=12)
    np.testing.assert_array_equal(spec.decode(path), spec.from_rgb(PICTURE))


# --- tensors ------------------------------------------------------------------------------------

fractions = st.tuples(*[st.floats(0, 1)] * 3)
deviations = st.tuples(*[st.floats(0.1, 2)] * 3)


@settings(deadline=None)
@given(fractions, deviations, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_float_input_is_normalized_planes(mean, std, seed, count):
    crops = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    batch = PreprocessSpec(resize=5, crop=5, mean=mean, std=std).to_input(list(crops))
    expected = (crops / 255 - np.array(mean)) / np.array(std)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_uint8_input_is_the_crops_themselves():
    spec = PreprocessSpec(resize=20, crop=20, input="uint8")
    crops = [spec.from_rgb(PICTURE), spec.from_rgb(255 - PICTURE)]
    batch = spec.to_input(crops)
    assert (batch.dtype, batch.shape) == (np.uint8, (2, *spec.input_shape))
    np.testing.assert_array_equal(batch, crops)


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_normalizing_the_uint8_input_gives_the_float_input(color):
    spec = PreprocessSpec(resize=20, crop=18, color=color)
    raw = spec.with_input("uint8")
    crop = spec.from_rgb(PICTURE)
    scale, shift = spec.affine
    normalized = raw.to_input([crop]).transpose(0, 3, 1, 2) * scale + shift
    np.testing.assert_array_equal(normalized, spec.to_input([crop]))
    assert raw.differences(spec) == {}


def test_bgr_swaps_the_channels_and_normalizes_in_that_order():
    rgb = PreprocessSpec(resize=20, crop=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    bgr = PreprocessSpec(
        resize=20, crop=16, color="BGR", mean=IMAGENET_MEAN[::-1], std=IMAGENET_STD[::-1]
    )
    np.testing.assert_array_equal(bgr.from_rgb(PICTURE), rgb.from_rgb(PICTURE)[..., ::-1])
    np.testing.assert_array_equal(
        bgr.to_input([bgr.from_rgb(PICTURE)]), rgb.to_input([rgb.from_rgb(PICTURE)])[:, ::-1]
    )
