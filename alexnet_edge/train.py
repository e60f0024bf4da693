"""Train one of the AlexNets on class folders or digits.

SGD with momentum, weight decay and a one-cycle rate; the 2012 paper's dropout and random crops and
flips; bf16 autocast where the processor has it. After every epoch two files are written whole:
``out`` (the best so far by validation accuracy) and ``out`` with `.last` before its suffix, from
which a run goes on exactly where it stopped.

Source of the recipe: Krizhevsky, Sutskever and Hinton (2012), sections 4 and 5; one-cycle: Smith
and Topin (2018).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.dataset import (
    ImageItem,
    ImageReader,
    ImageSet,
    SkippedImage,
    drop_unreadable,
    map_ahead,
    open_images,
)
from alexnet_edge.errors import (
    DatasetError,
    InputError,
    StaleArtifactError,
    UnavailableError,
)
from alexnet_edge.machine import usable_cores
from alexnet_edge.model import (
    Architecture,
    Checkpoint,
    build_module,
    import_torch,
    load_checkpoint,
    read_extra,
    save_checkpoint,
)
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 1 << 30
"""Resized images are kept in memory up to this size; beyond it they are decoded every epoch."""

SAMPLES = 8
"""Validation images stored in the checkpoint, so that an export can be checked on real input."""


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a run depends on besides its data and preprocessing.

    Attributes:
        arch: `alexnet`, `torchvision` or `caffe`.
        width: factor on the channels.
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        momentum: of SGD.
        weight_decay: L2 penalty.
        clip: largest gradient norm.
        flip: mirror half of the images.
        seed: of initialization, order, crops, flips and dropout.
        bf16: run the forward pass in bfloat16.
        device: `cpu` or `cuda`.
    """

    arch: str = "alexnet"
    width: float = 1.0
    epochs: int = 14
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0
    flip: bool = True
    seed: int = 0
    bf16: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}", hint="give more than 0")


DIGITS_SETTINGS = TrainSettings(epochs=4, batch_size=16, learning_rate=0.02, flip=False)
"""For scikit-learn's digits: few and small, and a mirrored digit is another sign or none."""


@dataclasses.dataclass(frozen=True)
class TrainProgress:
    """Where a run is: after a step, or after an epoch's validation.

    Attributes:
        epoch: from 1.
        step, steps: within the epoch.
        loss: running mean over the epoch.
        accuracy: training accuracy over the epoch so far, as a fraction.
        validation: validation accuracy, once the epoch has ended.
        seconds_left: estimated time to the end of the run.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float
    validation: float | None
    seconds_left: float


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Figures of one epoch; accuracies are fractions."""

    epoch: int
    loss: float
    accuracy: float
    validation: float


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes:
        checkpoint: the best weights' file.
        best: the epoch with the highest validation accuracy.
        epochs: all of them.
        parameters: of the network.
        images, validation_images: how many were used.
        seconds: duration of this run (a resumed run counts its own part).
        settings: what it depended on.
        skipped: images that could not be decoded.
    """

    checkpoint: str
    best: EpochResult
    epochs: tuple[EpochResult, ...]
    parameters: int
    images: int
    validation_images: int
    seconds: float
    settings: TrainSettings
    skipped: tuple[SkippedImage, ...] = ()


def last_path(out: Path) -> Path:
    """Return where the state that a run resumes from is kept.

    A `.safetensors` file has no room for it: beside one it is a `.pt`.
    """
    suffix = ".pt" if out.suffix == ".safetensors" else out.suffix
    return out.with_name(f"{out.stem}.last{suffix}")


def choose_device(device: str) -> tuple[str, bool]:
    """Return the device to train on and whether bfloat16 helps there.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UnavailableError: `cuda` was asked for and there is none.
    """
    torch = import_torch("training")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UnavailableError(
            "device cuda: torch sees no CUDA device", hint="train with --device cpu"
        )
    if available and device != "cpu":
        return "cuda", torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "cpu", bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def default_settings(data: str) -> TrainSettings:
    """Return what a run on ``data`` uses where nothing is said."""
    return DIGITS_SETTINGS if data == "digits" else TrainSettings()


def default_preprocess(data: str, arch: str) -> PreprocessSpec:
    """Return the preprocessing of a run on ``data``: digits fill their frame and keep it whole."""
    side = Architecture(arch).input_size
    return PreprocessSpec(resize=side if data == "digits" else 256, crop=side)


def open_training_sets(
    data: str, validation: str | None, *, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Return the training and the validation images.

    Args:
        data: `digits`, a folder of class folders, or a folder that holds `train` and `val`.
        validation: a folder of class folders; by default the `val` beside `train`, or every tenth
            training image, chosen by ``seed``.

    Raises:
        DatasetError: a folder does not hold what it should.
    """
    if data == "digits":
        return open_images("digits:train"), open_images(validation or "digits:val")
    if validation is None and (Path(data) / "train").is_dir() and (Path(data) / "val").is_dir():
        return open_images(Path(data) / "train"), open_images(Path(data) / "val")
    images = open_images(data)
    if validation is not None:
        return images, open_images(validation)
    _require_classes(images)
    return split(images, share=0.1, seed=seed)


def run_identity(images: ImageSet, spec: PreprocessSpec, settings: TrainSettings) -> dict[str, Any]:
    """Return what must be equal for one run to go on from another, or to be another."""
    how = {k: v for k, v in dataclasses.asdict(settings).items() if k not in {"bf16", "device"}}
    return {
        **how,
        "preprocess_sha256": spec.sha256,
        "images_sha256": sha256_json([[item.name, item.label] for item in images.items]),
    }


def split(images: ImageSet, *, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split off a validation share, evenly over the classes."""
    held_out = {item.name for item in images.sample(int(len(images) * share), seed=seed).items}
    return (
        dataclasses.replace(
            images, items=tuple(item for item in images.items if item.name not in held_out)
        ),
        dataclasses.replace(
            images, items=tuple(item for item in images.items if item.name in held_out)
        ),
    )


def train(
    images: ImageSet,
    validation: ImageSet,
    spec: PreprocessSpec,
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    max_bad: float = 0.01,
    on_progress: Callable[[TrainProgress], None] = lambda _: None,
) -> TrainResult:
    """Train and write the best and the last checkpoint.

    Raises:
        DatasetError: the set has no labels, an empty class, or unreadable images.
        StaleArtifactError: ``resume``, and the saved run had other settings or data.
        InputError: ``resume``, and there is no saved run; or ``out`` is in no folder.
    """
    torch = import_torch("training")
    validation = validation.with_classes(_require_classes(images))
    if validation.classes is None or not validation.items:
        problem = "holds no images" if validation.classes else "holds images without class folders"
        raise DatasetError(
            f"{validation.name}: {problem}", hint="validation needs images in class folders"
        )
    if not out.parent.is_dir():  # known now rather than after the first epoch
        raise InputError(f"{out.parent}: no such folder", hint=f"mkdir -p {out.parent}")
    images, skipped = drop_unreadable(images, max_bad=max_bad)
    classes = _require_classes(images)
    validation, skipped_validation = drop_unreadable(validation, max_bad=max_bad)
    architecture = Architecture(settings.arch, len(classes), settings.width)
    if spec.crop != architecture.input_size:
        raise InputError(
            f"crop is {spec.crop}, {settings.arch} takes {architecture.input_size}",
            hint=f"give --crop {architecture.input_size}",
        )
    torch.manual_seed(settings.seed)
    module: Any = build_module(architecture)
    module = module.to(settings.device, memory_format=torch.channels_last)
    run = _Run(torch, module, settings, spec, images)
    identity = run_identity(images, spec, settings)
    history: list[EpochResult] = []
    if resume:
        history = run.restore(last_path(out), identity)
    checkpoint = Checkpoint(
        architecture, {}, classes, spec, samples=_sample_crops(torch, validation, spec)
    )
    started = time.monotonic()
    for epoch in range(len(history) + 1, settings.epochs + 1):
        loss, accuracy = run.epoch(epoch, len(history), on_progress)
        scored = run.validate(validation)
        history.append(EpochResult(epoch, loss, accuracy, scored))
        on_progress(TrainProgress(epoch, run.steps, run.steps, loss, accuracy, scored, 0.0))
        current = dataclasses.replace(checkpoint, state_dict=module.state_dict())
        if scored >= max(result.validation for result in history):
            save_checkpoint(out, current, recipe=json.dumps(identity))
        save_checkpoint(last_path(out), current, training=run.state(identity, history))
    best = max(history, key=lambda result: (result.validation, result.epoch))
    return TrainResult(
        checkpoint=str(out),
        best=best,
        epochs=tuple(history),
        parameters=architecture.parameters,
        images=len(images),
        validation_images=len(validation),
        seconds=round(time.monotonic() - started, 1),
        settings=settings,
        skipped=(*skipped, *skipped_validation),
    )


def _require_classes(images: ImageSet) -> tuple[str, ...]:
    if images.classes is None:
        raise DatasetError(
            f"{images.name}: holds images without class folders",
            hint="training needs a folder for each class, named as the class",
        )
    counts = [0] * len(images.classes)
    for item in images.items:
        counts[item.label or 0] += 1
    if len(counts) < 2 or 0 in counts:
        problem = (
            f"class folder '{images.classes[counts.index(0)]}' is empty"
            if 0 in counts
            else "holds one class"
        )
        raise DatasetError(f"{images.name}: {problem}", hint="training needs images of 2 classes")
    return images.classes


def _sample_crops(torch: Any, images: ImageSet, spec: PreprocessSpec) -> torch.Tensor:
    reader = ImageReader(images.sample(SAMPLES), spec.with_input("uint8"), batch_size=SAMPLES)
    crops = [batch.tensor for batch in reader]
    return torch.from_numpy(np.concatenate(crops))  # type: ignore[no-any-return]


class _Run:
    """The moving parts of one training run."""

    def __init__(
        self,
        torch: Any,
        module: Any,
        settings: TrainSettings,
        spec: PreprocessSpec,
        images: ImageSet,
    ) -> None:
        self.torch, self.module, self.settings, self.spec = torch, module, settings, spec
        self.loader = _Loader(images, spec, settings)
        self.steps = self.loader.steps
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.learning_rate, total_steps=self.steps * settings.epochs
        )

    def epoch(
        self, epoch: int, done: int, on_progress: Callable[[TrainProgress], None]
    ) -> tuple[float, float]:
        """Run one epoch; return its mean loss and training accuracy."""
        torch, settings = self.torch, self.settings
        self.module.train()
        started, total_loss, correct, seen = time.monotonic(), 0.0, 0, 0
        for step, (batch, target) in enumerate(self.loader.epoch(epoch), start=1):
            inputs = torch.from_numpy(batch).to(settings.device, memory_format=torch.channels_last)
            labels = torch.from_numpy(target).to(settings.device)
            with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bf16):
                logits = self.module(inputs)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), settings.clip)
            self.optimizer.step()
            self.scheduler.step()
            total_loss += loss.item() * len(labels)
            correct += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            if not np.isfinite(total_loss):
                raise InputError(
                    f"the loss is not finite at epoch {epoch}, step {step}",
                    hint="train at a lower --lr",
                )
            remaining = (settings.epochs - epoch) * self.steps + self.steps - step
            pace = (time.monotonic() - started) / step
            at = TrainProgress(
                epoch=epoch,
                step=step,
                steps=self.steps,
                loss=total_loss / seen,
                accuracy=correct / seen,
                validation=None,
                seconds_left=remaining * pace,
            )
            on_progress(at)
        return total_loss / seen, correct / seen

    def validate(self, images: ImageSet) -> float:
        """Return top-1 accuracy in FP32, as a fraction."""
        torch = self.torch
        self.module.eval()
        correct = total = 0
        with torch.inference_mode():
            for batch in ImageReader(images, self.spec, batch_size=self.settings.batch_size):
                inputs = torch.from_numpy(batch.tensor).to(
                    self.settings.device, memory_format=torch.channels_last
                )
                answers = self.module(inputs).argmax(1).cpu().numpy()
                correct += int((answers == [item.label for item in batch.items]).sum())
                total += len(batch)
        return correct / total

    def state(self, identity: dict[str, Any], history: list[EpochResult]) -> dict[str, Any]:
        """Return what `restore` needs, as tensors and plain values."""
        return {
            "identity": json.dumps(identity),
            "history": [dataclasses.asdict(result) for result in history],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": self.torch.get_rng_state(),
        }

    def restore(self, path: Path, identity: dict[str, Any]) -> list[EpochResult]:
        """Go on from a saved run."""
        if not path.exists():
            raise InputError(f"{path}: no run to resume", hint="train without --resume first")
        checkpoint, saved = load_checkpoint(path), read_extra(path, "training")
        if not isinstance(saved, dict):
            raise InputError(f"{path}: holds no training state", hint="train without --resume")
        before = json.loads(saved["identity"])
        differences = {
            key: (before.get(key), identity.get(key))
            for key in sorted(before.keys() | identity.keys())
            if before.get(key) != identity.get(key)
        }
        if differences:
            raise StaleArtifactError(
                f"{path}: was trained otherwise", differences,
                hint="resume with the same settings and data, or train without --resume",
            )  # fmt: skip
        self.module.load_state_dict(checkpoint.state_dict)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.torch.set_rng_state(saved["rng"])
        return [EpochResult(**result) for result in saved["history"]]


class _Loader:
    """Augmented training batches; the same for a seed whatever the number of threads."""

    def __init__(self, images: ImageSet, spec: PreprocessSpec, settings: TrainSettings) -> None:
        self.images, self.spec, self.settings = images, spec, settings
        self.steps = -(-len(images) // settings.batch_size)
        self._cache: dict[str, UInt8Array] = {}
        self._cached_bytes = 0

    def epoch(self, epoch: int) -> Iterator[tuple[AnyArray, AnyArray]]:
        """Yield (N, 3, H, W) float32 inputs and (N,) int64 labels in shuffled order."""
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.images))
        size, workers = self.settings.batch_size, usable_cores()

        def prepare(index: int) -> tuple[AnyArray, int]:
            rng = np.random.default_rng((self.settings.seed, epoch, index))
            item = self.images.items[index]
            return self.spec.to_input([self._augment(self._resized(item), rng)]), item.label or 0

        prepared = map_ahead(
            prepare, (int(index) for index in order), workers=workers, window=3 * size
        )
        for start in range(0, len(order), size):
            pairs = [next(prepared) for _ in order[start : start + size]]
            inputs, labels = zip(*pairs, strict=True)
            yield np.concatenate(inputs), np.array(labels, np.int64)

    def _resized(self, item: ImageItem) -> UInt8Array:
        cached = self._cache.get(item.name)
        if cached is not None:
            return cached
        pixels = self.spec.resize_shorter(item.load())
        if self._cached_bytes + pixels.nbytes <= CACHE_BYTES:
            self._cache[item.name] = pixels
            self._cached_bytes += pixels.nbytes
        return pixels

    def _augment(self, pixels: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Cut a random square, and mirror it half of the time."""
        crop = self.spec.crop
        top = int(rng.integers(pixels.shape[0] - crop + 1))
        left = int(rng.integers(pixels.shape[1] - crop + 1))
        pixels = pixels[top : top + crop, left : left + crop]
        return pixels[:, ::-1] if self.settings.flip and rng.random() < 0.5 else pixels
