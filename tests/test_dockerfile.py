"""The Jetson image and its guides: what can be said of them without a board."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer.main

from alexnet_edge.cli import app
from alexnet_edge.recipes import list_named
from alexnet_edge.runtimes.loader import availability

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile.jetson"
HADOLINT = shutil.which(
    "hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
)
needs_hadolint = pytest.mark.skipif(
    HADOLINT is None, reason="hadolint is not installed; it comes with the extra dev"
)
JETPACKS = ["6", "7"]
GUIDES = [ROOT / "docs" / "how-to" / name for name in ("jetson.md", "dla.md")]
CAMERA_GUIDE = ROOT / "docs" / "how-to" / "camera-service.md"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage: what it is from, its name, and its instructions as (keyword, rest)."""

    base: str
    name: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, keyword: str) -> list[str]:
        """Return what follows each instruction of a kind."""
        return [rest for found, rest in self.instructions if found == keyword]


def read_instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(keyword, " ".join(rest.split())) for keyword, rest in split]


def read_file() -> tuple[dict[str, str], list[Stage]]:
    """Return the arguments before the first stage, and the stages."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for keyword, rest in read_instructions():
        if keyword == "FROM":
            base, _, name = rest.split()
            stages.append(Stage(base, name, ()))
        elif stages:
            last = stages[-1]
            stages[-1] = dataclasses.replace(
                last, instructions=(*last.instructions, (keyword, rest))
            )
        else:
            name, _, value = rest.partition("=")
            arguments[name] = value
    return arguments, stages


ARGUMENTS, STAGES = read_file()
BY_NAME = {stage.name: stage for stage in STAGES}
FINAL = STAGES[-1]


def fill(text: str, jetpack: str) -> str:
    values = {**ARGUMENTS, "JETPACK": jetpack}
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


def chain_of(stage: Stage, jetpack: str) -> list[Stage | str]:
    """Return a stage, the stages below it, and the image that they stand on."""
    below = fill(stage.base, jetpack)
    if below in BY_NAME:
        return [stage, *chain_of(BY_NAME[below], jetpack)]
    return [stage, below]


@needs_hadolint
def test_hadolint_finds_nothing():
    done = subprocess.run(
        [HADOLINT, "--no-color", DOCKERFILE.name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


@needs_hadolint
def test_hadolint_would_find_something(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM ubuntu:latest\nRUN apt-get install curl\n")
    done = subprocess.run(
        [HADOLINT, "--no-color", str(bad)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "DL3007" in done.stdout


def test_the_default_is_jetpack_6():
    assert ARGUMENTS["JETPACK"] == "6"
    assert FINAL.name == "runtime"


@pytest.mark.parametrize(
    ("jetpack", "image"), [("6", r"nvcr\.io/nvidia/l4t-\w+:r[\d.]+"), ("7", r"nvcr\.io/.*ubuntu24")]
)
@pytest.mark.parametrize("name", ["build", "runtime"])
def test_either_jetpack_is_reached_by_the_argument(name, jetpack, image):
    *_, base = chain_of(BY_NAME[name], jetpack)
    assert isinstance(base, str)
    assert re.match(image, base)


def test_only_jetpack_7_installs_tensorrt():
    installs = {
        jetpack: [
            rest
            for stage in chain_of(FINAL, jetpack)
            if isinstance(stage, Stage)
            for rest in stage.all("RUN")
            if "python3-libnvinfer=${TENSORRT_VERSION}" in rest
        ]
        for jetpack in JETPACKS
    }
    assert not installs["6"], "the image of JetPack 6 has it"
    assert len(installs["7"]) == 1


def test_every_image_is_pinned_to_a_tag():
    images = {name: value for name, value in ARGUMENTS.items() if name != "JETPACK"}
    assert len(images) == 4
    for name, image in images.items():
        tag = image.rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), name
        assert "latest" not in tag, name
    used = " ".join(stage.base for stage in STAGES)
    assert all(f"${{{name}}}" in used for name in images)


def test_every_version_is_an_argument_with_a_default():
    arguments = dict(rest.split("=", 1) for stage in STAGES for rest in stage.all("ARG"))
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+-1\+cuda\d+\.\d+", arguments["TENSORRT_VERSION"])
    optional = ("EXTRAS", "ONNXRUNTIME_WHEEL", "PACKAGES")
    assert [arguments[name] for name in optional] == ["", "", ""]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"pycuda=={arguments['PYCUDA_VERSION']}" in constraints


def test_where_images_and_versions_were_found_is_said():
    comments = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("#")]
    described = {line.split()[1] for line in comments if len(line.split()) > 2}
    arguments = [rest.split("=") for keyword, rest in read_instructions() if keyword == "ARG"]
    pinned = [name for name, value in arguments if re.search(r"\d\.\d", value)]
    assert len(pinned) == 6
    for name in pinned:
        assert {name, f"{name.partition('_')[0]}_*"} & described, name


def test_the_service_is_not_root_and_may_use_the_board():
    user = FINAL.all("USER")[-1]
    assert user not in {"root", "0"}
    created = next(rest for rest in FINAL.all("RUN") if "useradd" in rest)
    assert "--groups video" in created
    assert user in created.split()
    after = [keyword for keyword, _ in FINAL.instructions]
    assert "RUN" not in after[after.index("USER") :], "nothing is installed as that user"


def test_the_entry_point_is_the_command_and_doctor_its_default():
    assert json.loads(FINAL.all("ENTRYPOINT")[-1]) == ["alexnet-edge"]
    assert json.loads(FINAL.all("CMD")[-1]) == ["doctor"]


def test_the_health_check_fails_where_tensorrt_cannot_run():
    text = FINAL.all("HEALTHCHECK")[-1]
    options, _, command = text.partition(" CMD ")
    assert {option.split("=")[0] for option in options.split()} >= {"--interval", "--timeout"}
    program, *arguments = json.loads(command)
    assert program == "python3"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == (0 if availability("tensorrt").runs else 1)


@pytest.mark.parametrize("state", ["running", "stalled"])
def test_the_health_check_of_a_camera_is_the_cameras(state):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    from alexnet_edge.camera.web import WebServer
    from tests.camera.answers import make_answer, make_keeper

    _, *arguments = json.loads(FINAL.all("HEALTHCHECK")[-1].partition(" CMD ")[2])
    server = WebServer("127.0.0.1", 0, make_keeper(make_answer(), state=state).snapshot)
    host, port = server.start()
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "ALEXNET_EDGE_HEALTH": f"http://{host}:{port}/healthz"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.close()
    assert done.returncode == (0 if state == "running" else 1)


def test_the_image_has_what_the_camera_needs():
    (install,) = [rest for rest in BY_NAME["build"].all("RUN") if "pip install" in rest]
    assert ".[camera${EXTRAS:+,${EXTRAS}}]" in install
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = (ROOT / "constraints.txt").read_text()
    for requirement in project["project"]["optional-dependencies"]["camera"]:
        name = re.split(r"[^\w-]", requirement)[0]
        assert re.search(rf"^{name}==", pinned, re.MULTILINE), name


def test_the_image_has_no_torch_and_no_compiler():
    everything = " ".join(rest for _, rest in read_instructions())
    assert not re.search(r"torch|\btrain\b", everything)
    for jetpack in JETPACKS:
        for stage in chain_of(FINAL, jetpack)[:-1]:
            assert isinstance(stage, Stage)
            assert not re.search(r"\bg\+\+|-dev\b|\bpip\b", " ".join(stage.all("RUN")))
    assert FINAL.all("COPY") == ["--from=build /opt/alexnet-edge /opt/alexnet-edge"]


def test_no_cache_is_left_behind():
    for stage in STAGES:
        for rest in stage.all("RUN"):
            if "apt-get update" in rest:
                assert "rm -rf /var/lib/apt/lists/*" in rest
            if "apt-get install" in rest:
                assert "--no-install-recommends" in rest
            if "pip install" in rest:
                assert "--no-cache-dir" in rest


def is_sent(path: str) -> bool:
    """Say whether Docker sends a path to the build: the last pattern that fits decides."""
    sent = True
    whole = [path, *(str(parent) for parent in Path(path).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        anywhere = pattern.startswith("**/")
        candidates = Path(path).parts if anywhere else whole
        if not line.startswith("#") and any(
            fnmatch(candidate, pattern.removeprefix("**/")) for candidate in candidates
        ):
            sent = line.startswith("!")
    return sent


def test_the_build_is_sent_what_the_wheel_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [
        "pyproject.toml", "constraints.txt", project["project"]["readme"],
        *(f"{package}/__init__.py" for package in wheel["packages"]),
        *(f"{folder}/{file.name}" for folder in wheel["force-include"]
          for file in (ROOT / folder).iterdir()),
    ]  # fmt: skip
    assert len(needed) > 6
    assert [path for path in needed if not is_sent(path)] == []


@pytest.mark.parametrize(
    "path",
    [".venv/bin/python", ".git/HEAD", "alexnet.pt", "demo/alexnet.onnx", "engines/built/a.engine",
     "tests/conftest.py", "benchmarks/results/signs.json", "alexnet_edge/__pycache__/x.pyc"],
)  # fmt: skip
def test_the_build_is_sent_nothing_else(path):
    assert not is_sent(path)


def commands_of(guide: Path) -> list[list[str]]:
    """Return the words of each alexnet-edge command in a guide's blocks."""
    blocks = "\n".join(guide.read_text().split("```")[1::2]).replace("\\\n", " ")
    lines = (line.partition(" # ")[0].split() for line in blocks.splitlines())
    return [words[1:] for words in lines if words[:1] == ["alexnet-edge"]]


@pytest.mark.parametrize("guide", [*GUIDES, CAMERA_GUIDE], ids=lambda path: path.name)
def test_every_command_of_the_guides_exists(guide):
    group = typer.main.get_command(app)
    found = commands_of(guide)
    assert len(found) > (1 if guide == CAMERA_GUIDE else 7)
    for name, *words in found:
        options = {option for given in group.commands[name].params for option in given.opts}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        assert unknown == [], name


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_profile_of_the_guides_exists(guide):
    named = re.findall(r"--(?:profile|target) ([\w-]+)", guide.read_text())
    assert named
    assert set(named) <= list_named("profile").keys()


def test_every_build_argument_of_the_guide_is_one():
    text = GUIDES[0].read_text() + CAMERA_GUIDE.read_text()
    named = {*re.findall(r"--build-arg (\w+)=", text), *re.findall(r"`([A-Z_]+)=", text)}
    declared = {rest.split("=")[0] for keyword, rest in read_instructions() if keyword == "ARG"}
    assert {"JETPACK", "TENSORRT_VERSION", "EXTRAS", "ONNXRUNTIME_WHEEL"} <= named <= declared
