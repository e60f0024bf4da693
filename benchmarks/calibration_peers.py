"""The peers' calibration, each as its documentation says, and the floor under all of them.

    python benchmarks/calibration_peers.py NAME MODEL.onnx IMAGES OUT.onnx

One process, one calibration: `calibration.py` starts it and measures it from outside. Every peer
gets the same tensors, decoded by `PreprocessSpec.decode`, one image at a time.

    ort-minmax, ort-entropy, ort-percentile   onnxruntime.quantization.quantize_static at its
                                              defaults, QDQ
    …-u8                                      the same with UINT8 activations and weights per
                                              channel
    ort-…-ranges                              its calibrator alone: ranges, and no graph written
    nncf-onnx, nncf-openvino                  nncf.quantize at its defaults on all images, by either
                                              of its backends
    floor                                     start, load, and as many FP32 inferences; no image
                                              is read
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.dataset import ImageSet, open_images
from alexnet_edge.graph import load_bare, outline_model
from alexnet_edge.preprocess import AnyArray, PreprocessSpec


def read_images(spec: PreprocessSpec, images: ImageSet) -> Iterator[AnyArray]:
    for item in images.items:
        assert isinstance(item.source, Path)
        yield spec.to_input([spec.decode(item.source)])


class Reader:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, name: str, batches: Iterator[AnyArray]) -> None:
        self._feeds = ({name: batch} for batch in batches)

    def get_next(self) -> dict[str, AnyArray] | None:  # noqa: D102 - their name
        return next(self._feeds, None)


def run_onnxruntime(name: str, model: Path, reader: Reader, out: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.calibrate import create_calibrator

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[name.split("-")[1]]
    if name.endswith("-ranges"):
        calibrator = create_calibrator(model, calibrate_method=method)
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(reader)
        out.write_text(str(calibrator.compute_data().data))
        return
    options: dict[str, Any] = {"activation_type": QuantType.QInt8}
    if name.endswith("-u8"):
        options = {"activation_type": QuantType.QUInt8, "per_channel": True}
    quantize_static(
        model, out, reader, quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8,
        calibrate_method=method, **options,
    )  # fmt: skip


def run_nncf(backend: str, model: Path, batches: Iterator[AnyArray], count: int, out: Path) -> None:
    import nncf

    if backend == "onnx":
        import onnx

        loaded = onnx.load(model)
        name = loaded.graph.input[0].name
        dataset = nncf.Dataset(batches, lambda batch: {name: batch})
        onnx.save(nncf.quantize(loaded, dataset, subset_size=count), out)
        return
    import openvino

    dataset = nncf.Dataset(batches, lambda batch: batch)
    quantized = nncf.quantize(openvino.Core().read_model(model), dataset, subset_size=count)
    openvino.save_model(quantized, out.with_suffix(".xml"))


def run_floor(model: Path, shape: tuple[int, ...], count: int) -> None:
    """Run FP32 as the calibration does: a thread for each core, batches of 16."""
    import concurrent.futures

    from alexnet_edge.machine import usable_cores
    from alexnet_edge.runtimes.base import RuntimeOptions
    from alexnet_edge.runtimes.ort import create_session

    session = create_session(model, RuntimeOptions(threads=1))
    name = session.get_inputs()[0].name
    batch = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        sizes = [min(16, count - start) for start in range(0, count, 16)]
        list(pool.map(lambda size: session.run(None, {name: batch[:size]}), sizes))


def main() -> None:
    name, model, folder, out = sys.argv[1], *map(Path, sys.argv[2:5])
    graph = outline_model(load_bare(model), model)
    spec = graph.preprocess
    assert spec is not None
    images = open_images(folder)
    batches = read_images(spec, images)
    kind, _, backend = name.partition("-")
    if kind == "floor":
        run_floor(model, spec.input_shape, len(images))
    elif kind == "nncf":
        run_nncf(backend, model, batches, len(images), out)
    else:
        run_onnxruntime(name, model, Reader(graph.input.name, batches), out)


if __name__ == "__main__":
    main()
