"""The doctor: what it says of this machine agrees with what this machine can do."""

from __future__ import annotations

import json
import os
import stat

import pytest
from typer.testing import CliRunner

from alexnet_edge import machine
from alexnet_edge.cli import app
from alexnet_edge.doctor import RUNTIMES, diagnose
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import AlexnetEdgeError
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.sensors import Meter, Missing, Reading
from tests.sensors.standins import Scripted


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of this name before all others."""

    def install(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_every_runtime_is_listed_with_a_reason_where_it_does_not_run():
    found = diagnose()
    assert tuple(runtime.runtime for runtime in found.runtimes) == RUNTIMES
    assert all(runtime.reason for runtime in found.runtimes if not runtime.runs)


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "torch"])
def test_what_builds_and_runs_is_what_is_said(tiny_onnx, tmp_path, runtime):
    said = next(found for found in diagnose().runtimes if found.runtime == runtime)
    engine = tmp_path / "engine"
    try:
        build_engine(tiny_onnx, engine, BuildSettings(runtime=runtime))
    except AlexnetEdgeError:
        assert not said.builds
        return
    assert said.builds
    try:
        open_engine(engine).close()
    except AlexnetEdgeError:
        assert not said.runs
    else:
        assert said.runs


def test_diagnosis_is_json():
    value = to_json(diagnose())
    assert json.loads(json.dumps(value)) == value
    assert value["environment"]["cores"] == machine.usable_cores()
    assert value["memory_bytes"] > 0


@pytest.mark.parametrize(("vnni", "advised"), [(True, False), (False, True)])
def test_cpu_without_vnni_is_told_of_7_bit_weights(monkeypatch, vnni, advised):
    monkeypatch.setattr(machine, "has_vnni", lambda: vnni)
    assert any("VNNI" in sentence for sentence in diagnose().advice) is advised


@pytest.mark.parametrize(("cores", "advised"), [(1, True), (2, False)])
def test_one_core_is_told_of_taking_turns(monkeypatch, cores, advised):
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert any("One core" in sentence for sentence in diagnose().advice) is advised


def test_sensors_are_those_that_a_sampler_finds(monkeypatch):
    sensors = (
        Scripted(Reading(power_w={"VDD_IN": 7}), name="INA3221", meter=Meter("INA3221 VDD_IN")),
        Scripted(PermissionError("for root only"), name="rapl"),
    )
    monkeypatch.setattr("alexnet_edge.sensors.sampler.find_sensors", lambda: sensors)
    found = diagnose().sensors
    assert found.sources == ("INA3221",)
    assert found.energy_source == "INA3221 VDD_IN"
    assert found.missing == (Missing("rapl", "for root only"),)


def test_sensors_are_printed_with_what_is_missing(monkeypatch):
    sensors = (
        Scripted(name="cpufreq"),
        Scripted(PermissionError("for root only"), name="rapl"),
    )
    monkeypatch.setattr("alexnet_edge.sensors.sampler.find_sensors", lambda: sensors)
    printed = CliRunner().invoke(app, ["doctor"]).output
    assert "sensors: cpufreq; energy: nothing here measures it" in printed
    assert "rapl: for root only" in printed


def test_gpus_are_those_that_nvidia_smi_lists(nvidia_smi):
    nvidia_smi("echo 'NVIDIA A, 570.1, 8192 MiB'; echo; echo 'NVIDIA B, 570.1, 4096 MiB'")
    assert diagnose().gpus == ("NVIDIA A, 570.1, 8192 MiB", "NVIDIA B, 570.1, 4096 MiB")


def test_nvidia_smi_that_fails_means_no_gpu(nvidia_smi):
    nvidia_smi("echo 'could not communicate with the NVIDIA driver'; exit 9")
    assert diagnose().gpus == ()


def test_machine_without_nvidia_smi_has_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnose().gpus == ()
