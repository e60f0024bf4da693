"""An engine opened for pictures: arrays, Pillow images and files give one answer."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import alexnet_edge
from alexnet_edge.classifier import Classifier, softmax
from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import ImageError, InputError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine
from tests.conftest import DIGITS_SPEC

ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def classifier(tiny_onnx):
    with Classifier(tiny_onnx, ONE_THREAD) as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(digits_folders):
    return sorted((digits_folders / "val").glob("*/*"))[::10]


def test_it_is_had_from_the_package(tiny_onnx):
    assert alexnet_edge.Classifier is Classifier
    with pytest.raises(AttributeError, match="Klassifier"):
        _ = alexnet_edge.Klassifier


def test_importing_the_package_loads_no_numpy():
    code = "import sys, alexnet_edge; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_path_an_image_and_pixels_get_the_same_answer(classifier, photos):
    for path in photos:
        image = Image.open(path)
        answers = {
            classifier.classify(source)
            for source in (path, str(path), image, np.asarray(image.convert("RGB")))
        }
        assert len(answers) == 1


def test_answers_are_those_of_parity(classifier, tiny_onnx, digits_folders):
    images = open_images(digits_folders / "val").sample(20)
    with open_engine(tiny_onnx) as engine:
        for batch in ImageReader(images, engine.info.preprocess):
            expected = engine.infer_any(batch.tensor)
            for item, row in zip(batch.items, expected, strict=True):
                top = classifier.classify(item.source, top_k=10)
                assert [p.label for p in top] == np.argsort(-row, kind="stable").tolist()
                assert [p.probability for p in top] == pytest.approx(sorted(row, reverse=True))


def test_predictions_are_named_and_ordered(classifier, photos):
    top = classifier.classify(photos[0])
    assert len(top) == 3
    assert [p.name for p in top] == [str(p.label) for p in top]
    probabilities = [p.probability for p in top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(p.probability for p in classifier.classify(photos[0], top_k=99)) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_images_of_other_modes_become_rgb_as_files_do(classifier, photos, mode, tmp_path):
    image = Image.open(photos[0]).convert("L" if mode == "I;16" else "RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode in {"CMYK", "I;16"} else "x.png")
    image.save(path)
    assert classifier.classify(image) == classifier.classify(path)


def test_an_images_orientation_is_applied(classifier, photos, tmp_path):
    upright = Image.open(photos[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert classifier.classify(turned) == classifier.classify(upright)


def test_logits_become_probabilities(tmp_path, tiny_checkpoint, classifier, photos):
    path = tmp_path / "logits.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(logits=True), path)
    with Classifier(path, ONE_THREAD) as logits:
        assert logits.info.output_kind == "logits"
        for photo in photos:
            ours = logits.classify(photo, top_k=10)
            theirs = classifier.classify(photo, top_k=10)
            assert [p.label for p in ours] == [p.label for p in theirs]
            assert [p.probability for p in ours] == pytest.approx(
                [p.probability for p in theirs], abs=1e-5
            )


def test_softmax_of_large_logits_does_not_overflow():
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


def test_a_uint8_engine_is_fed_the_crop_without_conversion(tmp_path, tiny_checkpoint, photos):
    spec = DIGITS_SPEC.with_input("uint8")
    path = tmp_path / "raw.onnx"
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), preprocess=spec)
    export_onnx(checkpoint, spec, ExportSettings(), path)
    with Classifier(path, ONE_THREAD) as raw:
        pixels = np.asarray(Image.open(photos[0]).convert("RGB"))
        tensor = raw.prepare(pixels)
        assert tensor.dtype == np.uint8
        assert np.array_equal(tensor[0], spec.from_rgb(pixels))


def test_threads_may_share_it(classifier, photos):
    expected = [classifier.classify(path) for path in photos]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(classifier.classify, photos * 5))
    assert found == expected * 5


def test_callers_side_by_side_get_the_same_and_closing_waits_for_them(tiny_onnx, photos):
    with Classifier(tiny_onnx, ONE_THREAD) as alone:
        expected = [alone.classify(path) for path in photos]
    opened = Classifier(tiny_onnx, RuntimeOptions(threads=1, contexts=3))
    assert opened.callers == 3
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(opened.classify, photos * 5))
        large = np.concatenate([opened.prepare(photos[0])] * 32)
        running = [pool.submit(opened.infer, large) for _ in range(3)]
        while not any(future.running() for future in running):
            time.sleep(0.001)
        opened.close()
        for future in running:  # each was answered, or came after the end
            error = future.exception()
            assert error is None or isinstance(error, InputError)
    assert found == expected * 5


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        b"bytes",
        None,
    ],
)
def test_what_is_no_rgb_frame_is_refused(classifier, frame):
    with pytest.raises(InputError, match="a frame is"):
        classifier.classify(frame)


def test_a_file_that_is_no_image_is_refused(classifier, tmp_path):
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"x.png: not an image"):
        classifier.classify(tmp_path / "x.png")


def test_closed_it_answers_no_more(tiny_onnx):
    with Classifier(tiny_onnx, ONE_THREAD) as opened:
        pass
    opened.close()
    with pytest.raises(InputError, match="is closed"):
        opened.classify(np.zeros((8, 8, 3), np.uint8))


def test_what_contradicts_the_engine_is_refused(tiny_onnx):
    with pytest.raises(InputError, match="names other classes"):
        Classifier(tiny_onnx, classes=[f"class {i}" for i in range(10)])
    with pytest.raises(InputError, match="has 10 outputs, 2 classes"):
        Classifier(tiny_onnx, classes=["a", "b"])
    other = dataclasses.replace(DIGITS_SPEC, interpolation="bicubic")
    with pytest.raises(InputError, match=r"prepares images otherwise .preprocess.interpolation"):
        Classifier(tiny_onnx, preprocess=other)
    with pytest.raises(InputError, match="top_k is 0"):
        Classifier(tiny_onnx, top_k=0)


def test_a_graph_without_preprocessing_needs_it_given(tiny_onnx, tmp_path, photos):
    import onnx

    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    bare = tmp_path / "bare.onnx"
    onnx.save(model, bare)
    with pytest.raises(InputError, match="does not say how images are prepared"):
        Classifier(bare)
    names = [f"class {i}" for i in range(10)]
    with Classifier(bare, ONE_THREAD, preprocess=DIGITS_SPEC, classes=names) as opened:
        best = opened.classify(photos[0])[0]
        assert best.name == f"class {best.label}"
    with Classifier(bare, ONE_THREAD, preprocess=DIGITS_SPEC) as opened:
        assert opened.classify(photos[0])[0].name == str(best.label)
