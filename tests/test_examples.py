"""The services: units that systemd accepts, hardened, and commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from alexnet_edge.cli import app

EXAMPLES = Path(__file__).parents[1] / "examples"
UNITS = ["alexnet-edge.service", "alexnet-edge-container.service"]
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not installed; it comes with systemd"
)


def read_unit(name: str) -> dict[str, list[str]]:
    """Return the values of each key; sections do not share any here."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(" ".join(value.split()))
    return found


def read_environment() -> dict[str, str]:
    lines = (EXAMPLES / "alexnet-edge.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def installed(tmp_path):
    """Copies of the units whose programs exist on this machine."""
    for name in UNITS:
        text = (EXAMPLES / name).read_text()
        text = re.sub(r"/opt/\S+/alexnet-edge|/usr/bin/docker", sys.executable, text)
        (tmp_path / name).write_text(text)
    docker = f"[Service]\nExecStart={sys.executable}\n"
    (tmp_path / "docker.service").write_text(docker)
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(installed, name):
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(installed / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "alexnet" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_systemd_would_find_a_mistake(installed):
    path = installed / UNITS[0]
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystem=mostly"))
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert "mostly" in done.stderr


@needs_systemd
def test_systemd_finds_little_exposed(installed):
    done = subprocess.run(
        [ANALYZE, "security", "--offline=yes", "--threshold=30", str(installed / UNITS[0])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges running units only")
    assert done.returncode == 0, done.stdout


def test_the_service_is_hardened():
    unit = read_unit(UNITS[0])
    assert unit["User"] == ["alexnet"]
    assert "video" in unit["SupplementaryGroups"][0].split()
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    on = ["NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelModules", "LockPersonality",
          "ProtectKernelTunables", "ProtectControlGroups", "RestrictSUIDSGID"]  # fmt: skip
    assert {key: unit[key] for key in on} == {key: ["yes"] for key in on}
    # Each of them hides camera and GPU.
    assert not {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"} & unit.keys()


def test_the_container_is_hardened():
    (command,) = read_unit(UNITS[1])["ExecStart"]
    for option in ("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--rm",
                   "--publish 127.0.0.1:8080:8080", "--env ALEXNET_EDGE_TOKEN "):  # fmt: skip
        assert option in command
    assert "--privileged" not in command


@pytest.mark.parametrize("name", UNITS)
def test_it_comes_back(name):
    unit = read_unit(name)
    assert unit["Restart"] == ["always"]
    assert int(unit["RestartSec"][0]) > 0
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["EnvironmentFile"] == ["/etc/alexnet-edge.env"]
    assert unit["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("name", UNITS)
def test_the_command_exists_with_its_options(name):
    environment = read_environment()
    (command,) = read_unit(name)["ExecStart"]
    named = set(re.findall(r"\$\{?(\w+)\}?", command))
    assert named == environment.keys()
    for variable, value in environment.items():
        command = re.sub(rf"\$\{{?{variable}\b\}}?", lambda _, value=value: value, command)
    words = shlex.split(command)
    arguments = words[words.index("camera") + 1 :]
    camera = typer.main.get_command(app).commands["camera"]
    context = camera.make_context("camera", arguments)
    assert context.params["serve"] == environment["SERVE"]
    assert context.params["source"] == environment["SOURCE"]
    assert str(context.params["engine"]) == environment["ENGINE"]


def test_the_environment_is_read_alike_by_systemd_and_docker():
    for name, value in read_environment().items():
        assert re.fullmatch(r"[A-Z_]+", name)
        assert value == value.strip() and not set(value) & set("'\"`$\\")


def test_every_example_is_described():
    described = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert not path.is_file() or path.name == "README.md" or f"`{path.name}`" in described
