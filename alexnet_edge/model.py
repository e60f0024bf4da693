"""The three AlexNets, as data, and the checkpoints that hold their weights.

An `Architecture` is a list of layers from which everything else is derived: the layer table, the
shapes that a checkpoint is recognised by, the PyTorch module and the ONNX graph. Parameter names
are torchvision's for all three.

    checkpoint = load_checkpoint(Path("alexnet.pt"))
    module = build_module(checkpoint.architecture)
    module.load_state_dict(checkpoint.state_dict)
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_edge.artifacts import atomic_path, require_file, sha256_file
from alexnet_edge.errors import CheckpointError, InputError, MissingDependencyError
from alexnet_edge.preprocess import PreprocessSpec

if TYPE_CHECKING:
    import torch

_TRAIN_HINT = "make one with: alexnet-edge train --data DIR --out alexnet.pt"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: its path in the module: `features.0`.
        op: `conv`, `linear`, `relu`, `maxpool`, `lrn`, `flatten` or `dropout`.
        out: output channels or features, of `conv` and `linear`.
        kernel, stride, padding, groups: of `conv` and `maxpool`, in pixels.
        size: the window of `lrn`, in channels.
    """

    name: str
    op: str
    out: int = 0
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    size: int = 0


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """A layer with its shapes and costs, for one image.

    Attributes:
        input: (C, H, W) or (features,).
        output: likewise.
        weight: shape of its weight; empty where it has none.
        parameters: weights and biases.
        macs: multiply-accumulates.
    """

    layer: Layer
    input: tuple[int, ...]
    output: tuple[int, ...]
    weight: tuple[int, ...] = ()
    parameters: int = 0
    macs: int = 0


LRN_ALPHA, LRN_BETA, LRN_BIAS = 1e-4, 0.75, 1.0
"""Of the 2012 paper's response normalization as Caffe and ONNX define it (alpha is divided by the
window's size); Krizhevsky et al. (2012), section 3.3."""

DROPOUT = 0.5


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What tells one AlexNet from another: channels, first padding, groups, LRN, input size."""

    channels: tuple[int, int, int, int, int]
    input_size: int
    padding1: int
    groups: int = 1
    lrn: bool = False


_PLANS = {
    "alexnet": _Plan((96, 256, 384, 384, 256), input_size=227, padding1=0),
    "torchvision": _Plan((64, 192, 384, 256, 256), input_size=224, padding1=2),
    "caffe": _Plan((96, 256, 384, 384, 256), input_size=227, padding1=0, groups=2, lrn=True),
}
_HIDDEN = 4096
ARCHITECTURES = tuple(_PLANS)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One of the three AlexNets at a width and a number of classes.

    Attributes:
        name: `alexnet` (the 2012 network, ungrouped, no LRN), `torchvision` or `caffe`.
        classes: number of outputs.
        width: factor on every channel and hidden feature; 1 is the published network.
    """

    name: str = "alexnet"
    classes: int = 1000
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in _PLANS:
            raise InputError(
                f"architecture '{self.name}' is unknown", hint=f"one of {', '.join(_PLANS)}"
            )
        if self.classes < 2:
            raise InputError(f"{self.classes} classes", hint="a classifier needs at least 2")
        if not 0.01 <= self.width <= 4:
            raise InputError(f"width is {self.width}", hint="give 0.01 to 4")

    @property
    def input_size(self) -> int:
        """Height and width of the input, in pixels."""
        return _PLANS[self.name].input_size

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers in order, softmax left out."""
        plan = _PLANS[self.name]
        channels = [self._scale(count) for count in plan.channels]
        layers: list[Layer] = []
        index = 0
        for number, out in enumerate(channels, start=1):
            kernel, stride, padding = {1: (11, 4, plan.padding1), 2: (5, 1, 2)}.get(
                number, (3, 1, 1)
            )
            groups = plan.groups if number in {2, 4, 5} else 1
            layers.append(Layer(f"features.{index}", "conv", out, kernel, stride, padding, groups))
            layers.append(Layer(f"features.{index + 1}", "relu"))
            index += 2
            if number in {1, 2, 5}:
                if plan.lrn and number < 5:
                    layers.append(Layer(f"features.norm{number}", "lrn", size=5))
                layers.append(Layer(f"features.{index}", "maxpool", kernel=3, stride=2))
                index += 1
        hidden = self._scale(_HIDDEN)
        return (
            *layers,
            Layer("flatten", "flatten"),
            Layer("classifier.0", "dropout"),
            Layer("classifier.1", "linear", hidden),
            Layer("classifier.2", "relu"),
            Layer("classifier.3", "dropout"),
            Layer("classifier.4", "linear", hidden),
            Layer("classifier.5", "relu"),
            Layer("classifier.6", "linear", self.classes),
        )

    def shapes(self) -> Iterator[LayerShape]:
        """Yield each layer with its shapes, parameters and multiply-accumulates."""
        shape: tuple[int, ...] = (3, self.input_size, self.input_size)
        for layer in self.layers():
            described = _describe(layer, shape)
            yield described
            shape = described.output

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by its name in the state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        for described in self.shapes():
            if described.weight:
                shapes[f"{described.layer.name}.weight"] = described.weight
                shapes[f"{described.layer.name}.bias"] = described.weight[:1]
        return shapes

    @property
    def parameters(self) -> int:
        """Number of learnable parameters."""
        return sum(described.parameters for described in self.shapes())

    def _scale(self, count: int) -> int:
        """Scale a channel count to an even number: two groups must be able to share it."""
        return max(2, 2 * round(count * self.width / 2))


def _describe(layer: Layer, shape: tuple[int, ...]) -> LayerShape:
    if layer.op in {"conv", "maxpool"}:
        side = (shape[1] + 2 * layer.padding - layer.kernel) // layer.stride + 1
        output: tuple[int, ...] = (layer.out or shape[0], side, side)
        if layer.op == "maxpool":
            return LayerShape(layer, shape, output)
        weight: tuple[int, ...] = (layer.out, shape[0] // layer.groups, layer.kernel, layer.kernel)
        macs = math.prod(weight) * side * side
        return LayerShape(layer, shape, output, weight, math.prod(weight) + layer.out, macs)
    if layer.op == "linear":
        weight = (layer.out, shape[0])
        macs = math.prod(weight)
        return LayerShape(layer, shape, (layer.out,), weight, macs + layer.out, macs)
    output = (math.prod(shape),) if layer.op == "flatten" else shape
    return LayerShape(layer, shape, output)


def build_module(architecture: Architecture) -> torch.nn.Module:
    """Return the untrained PyTorch module, Kaiming-initialized.

    Its forward takes (N, 3, H, W) float32 and returns (N, classes) logits.
    """
    nn: Any = import_torch("the PyTorch module").nn
    parts: dict[str, OrderedDict[str, Any]] = {
        "features": OrderedDict(),
        "classifier": OrderedDict(),
    }
    for described in architecture.shapes():
        part, _, name = described.layer.name.partition(".")
        if part in parts:
            parts[part][name] = _module_of(nn, described)

    class AlexNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(parts["features"])
            self.classifier = nn.Sequential(parts["classifier"])

        def forward(self, images: Any) -> Any:
            return self.classifier(self.features(images).flatten(1))

    module: Any = AlexNet()
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
            nn.init.zeros_(child.bias)
    # The paper's 0.01 for the output layer: the first answers are near uniform, the loss near ln C.
    nn.init.normal_(module.classifier[-1].weight, std=0.01)
    return module  # type: ignore[no-any-return]


def _module_of(nn: Any, described: LayerShape) -> Any:
    layer = described.layer
    channels = described.input[0]
    if layer.op == "conv":
        return nn.Conv2d(
            channels, layer.out, layer.kernel, layer.stride, layer.padding, groups=layer.groups
        )
    return {
        "linear": lambda: nn.Linear(channels, layer.out),
        "relu": lambda: nn.ReLU(inplace=True),
        "maxpool": lambda: nn.MaxPool2d(layer.kernel, layer.stride),
        "lrn": lambda: nn.LocalResponseNorm(layer.size, LRN_ALPHA, LRN_BETA, LRN_BIAS),
        "dropout": lambda: nn.Dropout(DROPOUT),
    }[layer.op]()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights, and what is known of them.

    Attributes:
        architecture: given by the file, or inferred from the shapes.
        state_dict: parameter name to float32 tensor.
        classes: class names in label order; None where the file has none.
        preprocess: what the network was trained on; None where the file does not say.
        samples: (N, crop, crop, 3) uint8 images prepared by ``preprocess``, to check an export
            on; None where the file has none.
        sha256: of the file it was read from; empty before it is saved.
    """

    architecture: Architecture
    state_dict: Mapping[str, torch.Tensor]
    classes: tuple[str, ...] | None = None
    preprocess: PreprocessSpec | None = None
    samples: torch.Tensor | None = None
    sha256: str = ""

    def default_preprocess(self) -> PreprocessSpec:
        """Return the file's preprocessing, or the documented default at the network's input."""
        return self.preprocess or PreprocessSpec(crop=self.architecture.input_size)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a `.pt`, `.pth` or `.safetensors` state dict, bare or wrapped.

    No code in the file is ever run (``weights_only=True``).

    Raises:
        CheckpointError: it is damaged, holds pickled objects, or fits none of the architectures.
    """
    require_file(path, hint=_TRAIN_HINT)
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    weights = raw.get("state_dict", raw)
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path}: state_dict is not a mapping", hint=_TRAIN_HINT)
    state_dict = _clean_state_dict(path, weights)
    wrapped = raw if weights is not raw else {}
    architecture = _recognise(path, state_dict, wrapped.get("arch"), wrapped.get("width"))
    classes = wrapped.get("classes")
    if classes is not None and not isinstance(classes, (list, tuple)):
        raise CheckpointError(f"{path}: 'classes' is no list", hint="list the class names in it")
    if classes is not None and len(classes) != architecture.classes:
        raise CheckpointError(
            f"{path}: names {len(classes)} classes, its last layer has {architecture.classes}",
            hint="correct the file's 'classes'",
        )
    preprocess = wrapped.get("preprocess")
    return Checkpoint(
        architecture=architecture,
        state_dict=state_dict,
        classes=None if classes is None else tuple(str(name) for name in classes),
        preprocess=None
        if preprocess is None
        else PreprocessSpec.from_dict(preprocess, source=str(path)),
        samples=_read_samples(wrapped.get("samples")),
        sha256=sha256_file(path),
    )


def _read_samples(value: object) -> torch.Tensor | None:
    """Return the stored images, or None: another tool may keep something else by that name."""
    torch = import_torch("reading samples")
    fits = isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 4
    return value if fits else None  # type: ignore[return-value]


def save_checkpoint(path: Path, checkpoint: Checkpoint, **extra: object) -> None:
    """Write a wrapped checkpoint atomically; ``extra`` goes beside the documented keys.

    A `.safetensors` file holds the weights, with the rest as JSON in its header; it takes
    neither samples nor extras.
    """
    torch = import_torch("checkpoints")
    described: dict[str, Any] = {
        "arch": checkpoint.architecture.name,
        "width": checkpoint.architecture.width,
    }
    if checkpoint.classes is not None:
        described["classes"] = list(checkpoint.classes)
    if checkpoint.preprocess is not None:
        described["preprocess"] = checkpoint.preprocess.to_dict()
    state_dict = {name: tensor.contiguous() for name, tensor in checkpoint.state_dict.items()}
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            import json

            from safetensors.torch import save_file

            header = {key: json.dumps(value) for key, value in described.items()}
            save_file(state_dict, temporary, metadata=header)
            return
        if checkpoint.samples is not None:
            described["samples"] = checkpoint.samples
        # By its path torch would name the archive after the temporary file: other bytes each time.
        with temporary.open("wb") as file:
            torch.save({"state_dict": state_dict, **described, **extra}, file)


def read_extra(path: Path, key: str) -> Any:
    """Return what `save_checkpoint` stored beside the weights under ``key``, or None."""
    require_file(path, hint=_TRAIN_HINT)
    return _read_torch(path).get(key)


def import_torch(needed_for: str) -> Any:
    """Import torch.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", needed_for=needed_for, extra="train") from None
    return torch


def _read_torch(path: Path) -> Mapping[str, Any]:
    torch = import_torch(f"reading {path}")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged or holds more than tensors (whole modules are not loaded)",
            hint="save the weights alone: torch.save(model.state_dict(), 'alexnet.pt')",
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason})",
            hint="it may be truncated; copy or train it again",
        ) from error
    if not isinstance(raw, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(raw).__name__}, not a state dict",
            hint="save the weights alone: torch.save(model.state_dict(), 'alexnet.pt')",
        )
    return raw


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    import json

    import_torch(f"reading {path}")
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingDependencyError(
            "safetensors", needed_for=f"reading {path}", extra="train"
        ) from None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = ("arch", "width", "classes", "preprocess")
        described = {key: json.loads(header[key]) for key in known if key in header}
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error})",
            hint="it may be truncated; copy or train it again",
        ) from error
    return {"state_dict": weights, **described}


def _clean_state_dict(path: Path, weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Strip a common prefix (`module.`, `model.`), and refuse what is no finite tensor."""
    torch = import_torch(f"reading {path}")
    first = next((str(name) for name in weights if str(name).endswith("features.0.weight")), "")
    prefix = first.removesuffix("features.0.weight")
    cleaned: dict[str, Any] = {}
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: '{name}' is a {type(tensor).__name__}, not a tensor", hint=_TRAIN_HINT
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: '{name}' is {tensor.dtype}; floating-point weights are expected",
                hint="give the trained FP32 checkpoint; quantizing is a later step",
            )
        single = tensor.float()
        if not bool(torch.isfinite(single).all()):
            raise CheckpointError(
                f"{path}: '{name}' holds NaN or infinity", hint="train again, at a lower rate"
            )
        cleaned[str(name).removeprefix(prefix)] = single
    return cleaned


def _recognise(
    path: Path, state_dict: Mapping[str, torch.Tensor], arch: object, width: object
) -> Architecture:
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    classes = _features(found, "classifier.6", default=0)
    hidden = _features(found, "classifier.1", default=_HIDDEN)
    candidates = ARCHITECTURES if arch is None else (str(arch),)
    closest: tuple[int, str, str] | None = None
    for name in candidates:
        scale = float(width) if isinstance(width, (int, float)) else hidden / _HIDDEN
        try:
            architecture = Architecture(name, max(classes, 2), scale)
        except InputError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
        mismatches = _mismatches(architecture.parameter_shapes(), found)
        if not mismatches:
            return architecture
        if closest is None or len(mismatches) < closest[0]:
            closest = (len(mismatches), name, mismatches[0])
    assert closest is not None  # noqa: S101 - there is at least one candidate
    raise CheckpointError(
        f"{path}: is not {' or '.join(candidates)}; closest is {closest[1]}, but {closest[2]}",
        hint="the layer tables are printed by: alexnet-edge summary --arch NAME",
    )


def _features(found: Mapping[str, tuple[int, ...]], layer: str, *, default: int) -> int:
    """Return a layer's number of outputs, from its bias or, where that is missing, its weight."""
    shapes = (found.get(f"{layer}.{kind}") for kind in ("bias", "weight"))
    return next((shape[0] for shape in shapes if shape), default)


def _mismatches(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    problems = [
        f"{name} is {found.get(name, 'missing')}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    return problems + [f"{name} is unexpected" for name in found if name not in expected]
