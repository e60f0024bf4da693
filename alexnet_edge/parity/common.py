"""What the networks of a comparison must have in common, and which images they see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from alexnet_edge.dataset import ImageSet
from alexnet_edge.errors import DatasetError, InputError, StaleArtifactError
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
        InputError: other numbers of names and outputs.
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
    if images.classes is not None and classes is None:
        raise DatasetError(
            f"{images.name}: has class folders, but neither model names its classes",
            hint="name them in label order: --classes FILE, one a line",
        )
    return images.with_classes(classes) if classes is not None else images
