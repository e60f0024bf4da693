"""What `alexnet_edge.machine` says of the machine that the tests run on."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_edge import __version__, machine

CPUINFO = Path("/proc/cpuinfo")
ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from alexnet_edge.machine import usable_cores
print(usable_cores())
"""


def test_environment_is_json_and_dated_now():
    environment = json.loads(json.dumps(machine.environment()))
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(
        environment["date"]
    )
    assert datetime.timedelta() <= age < datetime.timedelta(minutes=1)
    assert environment["python"] == platform.python_version()
    assert environment["cores"] >= 1
    assert environment["cpu"]


def test_package_versions_name_what_is_installed_and_nothing_else():
    versions = machine.package_versions()
    assert versions["alexnet-edge"] == __version__
    assert versions["numpy"] == np.__version__
    assert all(versions.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_usable_cores_follow_the_affinity_of_the_process():
    command = [sys.executable, "-c", ONE_CORE]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize("architecture", ["aarch64", "arm64"])
def test_arm_sums_products_without_saturation(monkeypatch, architecture):
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    assert machine.has_vnni() is True


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="needs Linux on x86"
)
def test_vnni_on_x86_is_what_the_kernel_lists():
    listed = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(CPUINFO.read_text().split())
    assert machine.has_vnni() is bool(listed)


def test_a_board_has_a_name_and_a_pc_has_none():
    model = Path("/proc/device-tree/model")
    name = machine.board_name()
    assert bool(name) is model.exists()
    assert name is None or name in model.read_text()


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_total_memory_is_what_the_kernel_counts():
    kibibytes = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert machine.total_memory_bytes() == pytest.approx(kibibytes * 1024, rel=0.01)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            (36, 4, 3),
        ),
        (
            "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64",
            (32, 7, 1),
        ),
        ("# R39 (release), REVISION: 2\n# KERNEL_VARIANT: oot\n", (39, 2)),
        ("something else", None),
        ("", None),
    ],
)
def test_l4t_release_is_read_from_its_file(tmp_path, text, release):
    path = tmp_path / "nv_tegra_release"
    path.write_text(text)
    assert machine.l4t_release(path) == release


def test_a_pc_has_no_l4t_release(tmp_path):
    assert machine.l4t_release(tmp_path / "nv_tegra_release") is None
    assert machine.l4t_release(tmp_path) is None


@pytest.mark.skipif(len(machine.core_numbers()) < 2, reason="needs two cores")
def test_a_thread_is_kept_to_cores_and_let_go():
    every = machine.core_numbers()
    with machine.kept_to(every[1:2]):
        assert machine.core_numbers() == every[1:2]
        with machine.kept_to(every):
            assert machine.core_numbers() == every
        with machine.kept_to([]):
            assert machine.core_numbers() == every[1:2]
        with machine.kept_to([100_000]):  # no such core
            assert machine.core_numbers() == every[1:2]
    with pytest.raises(ValueError, match="inside"), machine.kept_to(every[:1]):
        raise ValueError("inside")
    assert machine.core_numbers() == every


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_stays_with_the_process():
    """Pages that were freed and are wanted again cost no page faults, in a process of its own."""
    script = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from alexnet_edge.machine import keep_freed_memory\n"
        "assert sys.argv[1] == '0' or keep_freed_memory()\n"
        "def use(): [a.fill(1) for a in [np.empty(3 << 20, np.uint8) for _ in range(12)]]\n"
        "use(); use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        keeps: int(subprocess.run(
            [sys.executable, "-c", script, keeps], check=True, capture_output=True, text=True,
            env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"},
        ).stdout) for keeps in "01"
    }  # fmt: skip
    assert faults["1"] < 100 < faults["0"]
