"""Classify a folder of images with an engine, from Python.

python examples/classify_folder.py demo/alexnet.int8.onnx photos/
"""

from __future__ import annotations

import sys
from pathlib import Path

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.runtimes.loader import open_engine


def main() -> None:
    engine_path, folder = sys.argv[1:]
    with open_engine(Path(engine_path)) as engine:
        spec, classes = engine.info.preprocess, engine.info.classes
        if spec is None or classes is None:
            sys.exit(f"{engine_path} does not say how images are prepared, or its classes")
        for batch in ImageReader(open_images(folder), spec, batch_size=8):
            answers = engine.infer_any(batch.tensor)
            for item, answer in zip(batch.items, answers, strict=True):
                best = int(answer.argmax())
                print(f"{item.name}: {classes[best]} {answer[best]:.3f}")


if __name__ == "__main__":
    main()
