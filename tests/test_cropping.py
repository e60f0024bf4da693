"""The quick way to crop a camera's frame gives the bytes of `PreprocessSpec.from_rgb`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_edge.classifier import cropping
from alexnet_edge.classifier.cropping import FrameCropper
from alexnet_edge.preprocess import PreprocessSpec

INTERPOLATIONS = ("bilinear", "bicubic", "box")
CAMERAS = [
    (1280, 720), (720, 1280), (1920, 1080), (640, 480), (1024, 768), (1296, 972), (1640, 1232),
    (800, 600), (2592, 1944), (3264, 2464), (960, 540), (1280, 960),
]  # fmt: skip


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("width", "height"), CAMERAS)
def test_frames_of_cameras_are_the_same_byte_for_byte(width, height, interpolation):
    spec = PreprocessSpec(interpolation=interpolation)
    cropper = FrameCropper(spec, threads=2)
    pixels = noise(width, height)
    assert np.array_equal(cropper.crop(pixels), spec.from_rgb(pixels))
    cropper.close()


@settings(max_examples=40)
@given(
    width=st.integers(300, 1400),
    height=st.integers(300, 1400),
    resize=st.integers(33, 299),
    cut=st.integers(0, 32),
    interpolation=st.sampled_from(INTERPOLATIONS),
    color=st.sampled_from(["RGB", "BGR"]),
    threads=st.integers(1, 3),
)
def test_any_frames_are_the_same_byte_for_byte(
    width, height, resize, cut, interpolation, color, threads
):
    spec = PreprocessSpec(
        resize=resize, crop=resize - cut, interpolation=interpolation, color=color
    )
    cropper = FrameCropper(spec, threads)
    pixels = noise(width, height, width)
    assert np.array_equal(cropper.crop(pixels), spec.from_rgb(pixels))
    assert np.array_equal(cropper.crop(pixels, threads=1), spec.from_rgb(pixels))
    cropper.close()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_widths_with_a_period_take_the_shortcut_and_are_the_same(interpolation):
    """Every width from 600 to 2000 whose resized columns repeat: where the shortcut is taken."""
    spec, taken = PreprocessSpec(interpolation=interpolation), 0
    cropper = FrameCropper(spec, threads=1)
    for width in range(600, 2000, 2):
        height = width * 9 // 16
        plan = cropping._make_plan(spec, width, height)
        if plan is None or plan.columns.count == spec.resize * width // height:
            continue
        taken += 1
        if taken % 8 == 0:
            pixels = noise(width, height, width)
            assert np.array_equal(cropper.crop(pixels), spec.from_rgb(pixels)), width
    assert taken > 40
    cropper.close()


def test_it_is_for_frames_of_720p_that_the_shortcut_was_made():
    plan = cropping._make_plan(PreprocessSpec(), 1280, 720)
    assert plan.columns.count == 273, "of 455"
    assert plan.rows == (36, 681)


def test_a_pillow_that_orders_its_passes_otherwise_is_noticed(monkeypatch):
    """A wrong plan stands for any other change."""
    spec = PreprocessSpec()
    plan = cropping._make_plan(spec, 1280, 720)
    wrong = dataclasses.replace(plan, left=plan.left + 1)
    monkeypatch.setattr(cropping, "_make_plan", lambda *_: wrong)
    cropper = FrameCropper(spec, threads=1)
    pixels = noise(1280, 720, 3)
    assert np.array_equal(cropper.crop(pixels), spec.from_rgb(pixels))


def test_weights_that_might_round_otherwise_are_not_trusted(monkeypatch):
    monkeypatch.setattr(cropping, "_DOUBT", 0.51)
    everything = cropping._period_columns(1280, 455, (114, 341), "bilinear")
    assert everything.count == 455


@pytest.mark.parametrize(
    ("width", "height"), [(227, 227), (100, 80), (3000, 10), (70_000, 300), (256, 2000)]
)
def test_frames_for_which_it_is_not_worthwhile_are_the_same(width, height):
    spec = PreprocessSpec()
    cropper = FrameCropper(spec, threads=2)
    pixels = noise(width, height)
    assert np.array_equal(cropper.crop(pixels), spec.from_rgb(pixels))


@pytest.mark.parametrize(
    ("sizes", "roused"),
    [([], False), ([(1280, 720)], True), ([(1280, 720), (640, 480)], False), ([(227, 227)], False)],
)
def test_threads_are_roused_for_frames_that_are_shared_only(monkeypatch, sizes, roused):
    cropper = FrameCropper(PreprocessSpec(), threads=2)
    for width, height in sizes:
        cropper.crop(noise(width, height))
    calls = []
    monkeypatch.setattr(cropper._crew, "rouse", lambda: calls.append(None))
    cropper.rouse()
    assert bool(calls) == roused
    cropper.close()


def test_views_and_frames_of_several_threads_are_the_same():
    spec = PreprocessSpec()
    cropper = FrameCropper(spec, threads=2)
    frames = [noise(1280, 720, seed)[::-1] for seed in range(4)]
    expected = [spec.from_rgb(pixels) for pixels in frames]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(cropper.crop, frames * 3), expected * 3, strict=True):
            assert np.array_equal(ours, theirs)
    cropper.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("crop")]
