"""What the networks of a comparison must have in common, and which images they see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.dataset import ImageSet
from alexnet_edge.errors import DatasetError, InputError, StaleArtifactError
from alexnet_edge.graph import read_graph
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.runtimes.base import EngineInfo


def find_preprocess(engines: Sequence[EngineInfo], reference: EngineInfo) -> PreprocessSpec:
    """Return the preprocessing that all share.

    Raises:
        InputError: nothing says how images are prepared.
        StaleArtifactError: two prepare them differently.
    """
    known = [info for info in (*engines, reference) if info.preprocess is not None]
    if not known or known[0].preprocess is None:
        raise InputError(
            f"{engines[0].path}: neither it nor the reference says how images are prepared",
            hint="build it again with --resize, --crop, --mean and --std",
        )
    first = known[0].preprocess
    for info in known[1:]:
        differences = first.differences(info.preprocess or first)
        if differences:
            raise StaleArtifactError(
                f"{info.path} and {known[0].path} prepare images differently", differences,
                hint=f"alexnet-edge build {reference.path}",
            )  # fmt: skip
    return first


def find_warnings(engine: EngineInfo, reference: EngineInfo) -> tuple[str, ...]:
    """Return what makes this another comparison than that of an engine with its own FP32 model."""
    found = []
    if reference.precision != "fp32":
        found.append(
            f"{reference.path}: the reference is {reference.precision.upper()}, not FP32: what it "
            "lost itself is not seen"
        )
    if _are_one_file(engine, reference):
        found.append(
            f"{engine.path}: is the reference {reference.path} itself: nothing can differ; give "
            "--reference the FP32 graph or checkpoint that the engine was made from"
        )
    other = _describe_other_origin(engine, reference)
    if other:
        found.append(
            f"{engine.path}: was made from another {other} ({engine.model_sha256[:12]}) than "
            f"the reference {reference.path} ({reference.model_sha256[:12]})"
        )
    return tuple(found)


def _are_one_file(engine: EngineInfo, reference: EngineInfo) -> bool:
    return engine.path.samefile(reference.path) or (
        engine.size_bytes == reference.size_bytes
        and sha256_file(engine.path) == sha256_file(reference.path)
    )


def _describe_other_origin(engine: EngineInfo, reference: EngineInfo) -> str:
    """Say what an engine was made from, were it not the reference's model; else empty."""
    if engine.model_sha256 == reference.model_sha256:
        return ""
    known = _find_checkpoint(engine), _find_checkpoint(reference)
    is_same = known[0] is not None and known[0] == known[1]
    if "torch" in {engine.runtime, reference.runtime}:
        # A graph without a stamp does not say which checkpoint it is of.
        return "" if is_same or None in known else "model"
    return "graph of the same checkpoint" if is_same else "model"


def _find_checkpoint(info: EngineInfo) -> str | None:
    """Return the hash of the checkpoint that a file comes from; None where nothing says."""
    if info.runtime == "torch":
        return info.model_sha256
    return read_graph(info.path).checkpoint_sha256 if info.path.suffix == ".onnx" else None


def hash_images(images: ImageSet) -> str:
    """Return the hash of a set's names, sizes and labels, in order.

    Sizes rather than contents: 50,000 photos need not be read for it.
    """
    digest = hashlib.sha256()
    names = images.classes
    for item in images.items:
        is_file = isinstance(item.source, Path)
        size = item.source.stat().st_size if isinstance(item.source, Path) else item.source.nbytes
        content = "" if is_file else item.sha256
        label = None if item.label is None or names is None else names[item.label]
        digest.update(json.dumps([item.name, size, content, label]).encode())
    return digest.hexdigest()


def label_images(
    images: ImageSet,
    engines: Sequence[EngineInfo],
    reference: EngineInfo,
    given: tuple[str, ...] | None,
) -> ImageSet:
    """Return the images with labels that are indices of the networks' outputs.

    Raises:
        DatasetError: class folders, and neither model nor argument names the classes.
        InputError: other numbers of names and outputs; a name that a model gives another output.
        StaleArtifactError: two networks name other classes.
    """
    named = [info for info in (reference, *engines) if info.classes]
    for info in named[1:]:
        if info.classes != named[0].classes:
            raise StaleArtifactError(
                f"{named[0].path} and {info.path} name other classes",
                {"classes": (", ".join(named[0].classes or ()), ", ".join(info.classes or ()))},
                hint=f"alexnet-edge build {reference.path}",
            )
    classes = given or (named[0].classes if named else None)
    for info in engines:
        outputs = info.output.shape[1]
        if given is not None and outputs not in {None, len(given)}:
            raise InputError(
                f"{info.path}: has {outputs} outputs, {len(given)} classes are named",
                hint="give one name a line for each output, in order",
            )
    if given is not None and named:
        _require_no_contradiction(given, named[0])
    if images.classes is not None and classes is None:
        raise DatasetError(
            f"{images.name}: has class folders, but neither model names its classes",
            hint="name them in label order: --classes FILE, one a line",
        )
    return images.with_classes(classes) if classes is not None else images


def describe_renaming(given: tuple[str, ...] | None, models: Sequence[EngineInfo]) -> str | None:
    """Say that the names given are not the model's own; None where they are, or it has none."""
    named = [info for info in models if info.classes]
    at = _first_difference(given, named[0].classes) if named else None
    if given is None or at is None:
        return None
    own = named[0].classes or ()
    return f"--classes calls output {at} '{given[at]}', {named[0].path} '{own[at]}'"


def _require_no_contradiction(given: tuple[str, ...], model: EngineInfo) -> None:
    """Refuse the model's own names in another order; other names for the same outputs are fine."""
    own = model.classes or ()
    for index, (name, expected) in enumerate(zip(given, own, strict=False)):
        if name != expected and name in own:
            raise InputError(
                f"{model.path}: names output {index} '{expected}', --classes names it '{name}', "
                f"which is the model's output {own.index(name)}",
                hint="leave --classes out: the model names its classes itself",
            )


def _first_difference(given: tuple[str, ...] | None, own: tuple[str, ...] | None) -> int | None:
    pairs = enumerate(zip(given or (), own or (), strict=False))
    return next((index for index, (ours, theirs) in pairs if ours != theirs), None)
