"""Does an engine fit? Versions, GPUs and machines against those of the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_edge.errors import StaleArtifactError
from alexnet_edge.manifest import Manifest
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.fit import HEADER_BYTES, Here, require_fit

RTX_1_7_1_116 = b"vtrt".ljust(24, b"\0") + bytes((1, 7, 1, 116))
PATH = Path("alexnet.engine")


def manifest(runtime="tensorrt", version="10.3.0.30", *, device=None, **options):
    """A manifest with these facts; the rest is not read."""
    tensor = TensorSpec("x", "float32", (None, 3, 227, 227))
    return Manifest(
        engine_sha256="", model_sha256="", table_sha256=None, preprocess=None, classes=None,
        runtime=runtime, runtime_version=version, precision="int8", layers=(),
        device=device or {}, input=tensor, output=tensor, output_kind="logits", options=options,
    )  # fmt: skip


def fits(built, here, header=b"ftrt"):
    try:
        require_fit(PATH, built, header, here)
    except StaleArtifactError:
        return False
    return True


@pytest.mark.parametrize(
    ("built", "here", "expected"),
    [
        ("10.3.0.30", "10.3.0.30", True),
        ("10.3.0.26", "10.3.0.30", True),  # a build number is not a version
        ("10.3.0", "10.3.0.30", True),
        ("10.3.0", "10.3.1", False),
        ("10.3.0", "10.13.0", False),
        ("10.13.0", "10.3.0", False),
        ("8.6.1", "8.6.2", False),
        ("8.6.1", "10.3.0", False),
    ],
)
def test_a_plan_belongs_to_one_major_minor_patch(built, here, expected):
    assert fits(manifest(version=built), Here(here, "8.7")) is expected


@pytest.mark.parametrize(
    ("built", "here", "expected"),
    [
        ("8.6.1", "8.6.2", True),
        ("8.6.1", "10.3.0", True),
        ("8.6.1", "11.1.0", False),
        ("10.3.0", "10.13.0", True),
        ("10.3.0", "11.1.0", True),
        ("10.13.0", "10.3.0", False),
        ("11.1.0", "10.16.0", False),
        ("11.1.0", "11.4.1", True),
    ],
)
def test_a_version_compatible_plan_is_for_later_versions_as_far_as_they_say(built, here, expected):
    built = manifest(version=built, version_compatible=True)
    assert fits(built, Here(here, "8.7")) is expected


@pytest.mark.parametrize(
    ("here", "expected"),
    [("1.7.1.116", True), ("1.7.1.117", False), ("1.7.0.116", False), ("1.8", False)],
)
def test_an_rtx_engine_belongs_to_the_release_in_its_header(here, expected):
    built = manifest("tensorrt-rtx", "1.7.1.116")
    assert fits(built, Here(here, "8.6"), RTX_1_7_1_116) is expected


def test_the_header_counts_more_than_the_manifest():
    built = manifest("tensorrt-rtx", "1.8.0.1")
    assert fits(built, Here("1.7.1.116", "8.6"), RTX_1_7_1_116)
    assert not fits(built, Here("1.8.0.1", "8.6"), RTX_1_7_1_116)


@pytest.mark.parametrize("header", [b"", RTX_1_7_1_116[:20], b"ftrt".ljust(28, b"\1")])
def test_without_a_header_that_says_it_the_manifest_does(header):
    built = manifest("tensorrt-rtx", "1.8.0.1")
    assert fits(built, Here("1.8.0.1", "8.6"), header)
    assert not fits(built, Here("1.7.1.116", "8.6"), header)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({}, True),
        ({"compute_capability": "8.7"}, True),
        ({"compute_capability": None}, True),
        ({"compute_capability": "8.6"}, False),
        ({"compute_capability": ["8.6", "8.7"]}, True),
        ({"compute_capability": ["8.6", "8.9"]}, False),
        ({"architecture": "aarch64"}, True),
        ({"architecture": "x86_64"}, False),
    ],
)
def test_what_the_manifest_records_of_the_machine_must_be_here(device, expected):
    here = Here("10.3.0", "8.7", "aarch64")
    assert fits(manifest(device=device), here) is expected


def test_the_refusal_names_every_difference_and_the_command():
    built = manifest(device={"compute_capability": "8.6", "architecture": "x86_64"})
    with pytest.raises(StaleArtifactError) as refused:
        require_fit(PATH, built, b"", Here("10.13.0", "8.7", "aarch64"))
    assert refused.value.differences == {
        "runtime_version": ("10.3.0.30", "10.13.0"),
        "compute_capability": ("8.6", "8.7"),
        "architecture": ("x86_64", "aarch64"),
    }
    assert refused.value.hint.endswith("alexnet-edge build MODEL.onnx --int8 --runtime tensorrt")


def test_the_command_names_the_profile_that_the_engine_was_built_for():
    with pytest.raises(StaleArtifactError) as refused:
        require_fit(PATH, manifest(profile="orin-nano"), b"", Here("10.13.0", "8.7"))
    assert refused.value.hint.endswith("--int8 --profile orin-nano")


def test_a_real_rtx_engine_says_its_version_where_the_header_is_read(tiny_onnx, tmp_path):
    from alexnet_edge.engine.build import BuildSettings, build_engine
    from alexnet_edge.runtimes.loader import availability

    found = availability("tensorrt-rtx")
    if not found.builds:
        pytest.skip(f"tensorrt-rtx: {found.reason}")
    out = tmp_path / "engine"
    built = build_engine(tiny_onnx, out, BuildSettings(runtime="tensorrt-rtx"))
    header = out.read_bytes()[:HEADER_BYTES]
    assert fits(built, Here(found.version, "8.6"), header)
    assert not fits(built, Here("1.0.0.1", "8.6"), header)
