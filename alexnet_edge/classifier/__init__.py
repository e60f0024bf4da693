"""One engine, opened with its preprocessing and class names: a picture in, named classes out.

    from alexnet_edge import Classifier

    with Classifier("alexnet.int8.onnx") as classifier:
        best = classifier.classify(Path("cat.jpg"))[0]
        print(best.name, best.probability)

The camera's loop runs on the same methods (`prepare`, `infer`, `rank`), so a frame gets the answer
that `classify` gives, and that `parity` judged.
"""

from alexnet_edge.classifier.classifier import (
    Classifier,
    Picture,
    Prediction,
    Probabilities,
    softmax,
)

__all__ = ["Classifier", "Picture", "Prediction", "Probabilities", "softmax"]
