"""What `gpu_check.py` tries on a GPU, an item at a time.

An item returns what it has to say, or raises `ItemError`. The network is AlexNet at full size with
random weights: its speed is that of any other, and its answers are only compared with those of the
same weights on the CPU. It is made in build/gpu-check.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMMAND, ROOT

from alexnet_edge.bench import synthetic_input
from alexnet_edge.machine import Gpu
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.base import Runtime, RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine

WORKDIR = ROOT / "build/gpu-check"
PRECISIONS = ("fp32", "fp16", "int8")
LEAST_SQNR_DB = {"fp32": 40.0, "fp16": 30.0, "int8": 20.0}
"""Of the logits against FP32 on the CPU: below what each precision reaches, and far above what
wrong answers would."""

SUFFIXES = {"tensorrt-rtx": "rtx.engine", "tensorrt": "engine"}
VERDICT_FAILS = 3
COPY_BYTES, COPIES = 256 << 20, 20
Item = Callable[[], "Done"]


@dataclasses.dataclass(frozen=True)
class Done:
    """What an item that ran has to say, and its figures if it measured any."""

    detail: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class ItemError(Exception):
    """An item ran and is not as it should be; figures that were measured are kept."""

    def __init__(self, message: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.figures = figures or {}


class NothingToTryError(Exception):
    """An item found that nothing of it can be tried here; the message says why."""


# The network and its engines


def command(*arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command of alexnet-edge in the working folder.

    Raises:
        ItemError: it fails; with the last line that it said.
    """
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=WORKDIR, capture_output=True, text=True, check=False
    )
    if done.returncode not in allowed:
        said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise ItemError(f"alexnet-edge {' '.join(arguments[:2])}: {reason}")


def make_network() -> None:
    """Write checkpoint, graph, images to compare on, and calibration table, once."""
    if (WORKDIR / "alexnet.table.json").exists():
        return
    import torch

    from alexnet_edge.dataset import open_images
    from alexnet_edge.model import Architecture, Checkpoint, build_module, save_checkpoint

    (WORKDIR / "images").mkdir(parents=True, exist_ok=True)
    for index, item in enumerate(open_images("digits:val").sample(32).items):
        item.load().save(WORKDIR / f"images/{index:02d}.png")
    torch.manual_seed(0)
    architecture = Architecture()
    module = build_module(architecture)
    save_checkpoint(WORKDIR / "alexnet.pt", Checkpoint(architecture, module.state_dict()))
    command("export", "alexnet.pt", "--logits")
    command("calibrate", "--images", "digits:train", "--max-images", "32")


def build(runtime: str, precision: str) -> Path:
    """Build an engine, once; return its file."""
    make_network()
    name = f"alexnet.{precision}.{SUFFIXES[runtime]}"
    if not (WORKDIR / f"{name}.json").exists():
        method = ("--method", "minmax") if precision == "int8" else ()
        command(
            "build", f"--{precision}", "--runtime", runtime, "--batch", "1,1,8", "--out", name,
            *method,
        )  # fmt: skip
    return WORKDIR / name


def compare(engine: str, device: str, least_sqnr_db: float) -> float:
    """Return the logit SQNR of an engine against FP32 on the CPU; infinity where they are equal.

    Raises:
        ItemError: it does not run, or answers something else.
    """
    command(
        "parity", engine, "--reference", "alexnet.onnx", "--images", "images",
        "--device", device, "--json", "parity.json", allowed=(0, VERDICT_FAILS),
    )  # fmt: skip
    found = json.loads((WORKDIR / "parity.json").read_text())["logit_sqnr_db"]
    sqnr_db = float("inf") if found is None else float(found)
    if not sqnr_db >= least_sqnr_db:
        raise ItemError(f"{engine}: logit SQNR {sqnr_db:.1f} dB, {least_sqnr_db} dB is expected")
    return sqnr_db


# Items


def describe_gpus(gpus: Sequence[Gpu]) -> Done:
    return Done("; ".join(
        f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.0f} "
        f"GiB{', integrated' if gpu.integrated else ''}" for gpu in gpus
    ))  # fmt: skip


def try_pycuda() -> Done:
    import pycuda
    from pycuda import driver

    driver.init()
    major, minor = divmod(driver.get_driver_version() // 10, 100)
    compiled = ".".join(map(str, driver.get_version()[:2]))
    return Done(
        f"pycuda {pycuda.VERSION_TEXT}, compiled for CUDA {compiled}, driver CUDA {major}.{minor}"
    )


def measure_bandwidth() -> Done:
    """Copy device memory onto device memory: each byte is read once and written once."""
    from pycuda import driver

    from alexnet_edge.runtimes.cuda import CudaDevice

    device = CudaDevice(driver, 0, Path("copy"))
    with contextlib.closing(device), device.active(), contextlib.ExitStack() as stack:
        source, sink = (driver.mem_alloc(COPY_BYTES) for _ in range(2))
        stack.callback(source.free)
        stack.callback(sink.free)
        driver.memcpy_dtod(sink, source, COPY_BYTES)
        begin, end = driver.Event(), driver.Event()
        begin.record()
        for _ in range(COPIES):
            driver.memcpy_dtod(sink, source, COPY_BYTES)
        end.record()
        end.synchronize()
        seconds = end.time_since(begin) / 1e3
    bandwidth = 2 * COPY_BYTES * COPIES / seconds / 1e9
    return Done(f"{bandwidth:.0f} GB/s", {"bandwidth_gbs": bandwidth})


def try_engines(runtime: str, gpus: Sequence[Gpu]) -> Item:
    """Build in every precision and compare the answers with the CPU's."""

    def run() -> Done:
        found = {
            precision: compare(build(runtime, precision).name, "cuda", LEAST_SQNR_DB[precision])
            for precision in PRECISIONS
        }
        said = ", ".join(f"{precision} {value:.1f} dB" for precision, value in found.items())
        capability = gpus[0].compute_capability
        return Done(
            f"run on compute capability {capability}; logit SQNR {said}",
            to_json({"compute_capability": capability, "logit_sqnr_db": found}),
        )

    return run


def try_options(runtime: str) -> Item:
    """Every way to launch and to move memory gives the same answers; contexts give throughput."""

    def run() -> Done:
        path = build(runtime, "int8")
        with open_engine(path, RuntimeOptions(cuda_graph="off", zero_copy=False)) as plain:
            batch = synthetic_input(plain.info.input, 8, seed=0)
            expected = plain.infer(batch)
        states = {}
        for name, options in (
            ("graphs", RuntimeOptions(cuda_graph="on")),
            ("mapped", RuntimeOptions(zero_copy=True)),
        ):
            with open_engine(path, options) as engine:
                for _ in range(3):
                    if not np.allclose(engine.infer(batch), expected, rtol=1e-3, atol=1e-4):
                        raise ItemError(f"{name}: other answers than plain launches give")
                states[name] = engine.describe()["cuda_graph"]
        rates = {}
        for contexts in (1, 2, 4):
            with open_engine(path, RuntimeOptions(contexts=contexts)) as engine:
                rates[str(contexts)] = measure_throughput(engine, 8, contexts, seconds=2)
        said = ", ".join(f"{count}: {rate:.0f}" for count, rate in rates.items())
        return Done(
            f"equal answers; CUDA graph {states['graphs']}; images/s by contexts {said}",
            {"cuda_graph": states, "throughput_ips_by_contexts": rates},
        )

    return run


def measure_throughput(engine: Runtime, batch: int, callers: int, *, seconds: float) -> float:
    """Return images per second of callers that each send a batch when theirs is answered.

    Raises:
        ItemError: a caller met an error.
    """
    images = synthetic_input(engine.info.input, batch, seed=0)
    counts, errors = [0] * callers, []
    start = threading.Barrier(callers + 1)

    def call(number: int) -> None:
        try:
            engine.infer(images)
            start.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                engine.infer(images)
                counts[number] += 1
        except Exception as error:
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        first = next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors)
        raise ItemError(f"{callers} callers: {first}")
    return sum(counts) * batch / (time.perf_counter() - begin)


def run_contract() -> Done:
    """Run the runtimes' own tests, which have engines on the GPU among them."""
    WORKDIR.mkdir(parents=True, exist_ok=True)
    report = WORKDIR / "contract.xml"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/runtimes", "-q", f"--junitxml={report}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not report.exists():
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ItemError(f"pytest: {said[-1]}")
    return judge_contract(report.read_text())


def judge_contract(report: str) -> Done:
    """Read a JUnit report of tests/runtimes.

    Raises:
        ItemError: a test failed, or none ran an engine on a GPU: the CPU's would pass as well.
    """
    cases = list(ET.fromstring(report).iter("testcase"))
    broken = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    passed = [case for case in cases if case not in broken and case not in skipped]
    on_gpu = [
        case for case in passed
        if str(case.get("classname")).endswith("test_contract")
        and str(case.get("name")).startswith("test_answers_agree_with_pytorch[tensorrt")
    ]  # fmt: skip
    if broken:
        named = ", ".join(str(case.get("name")) for case in broken[:5])
        raise ItemError(f"{len(broken)} of {len(cases)} tests: {named}")
    if not on_gpu:
        raise ItemError(f"{len(passed)} tests passed, none with an engine on the GPU")
    return Done(
        f"{len(passed)} passed, with {len(on_gpu)} kinds of engines on the GPU; "
        f"{len(skipped)} skipped"
    )


def try_onnxruntime(device: str) -> Item:
    """The FP32 graph through a GPU provider of ONNX Runtime, which must run its nodes."""

    def run() -> Done:
        make_network()
        with open_engine(WORKDIR / "alexnet.onnx", RuntimeOptions(device=device)) as engine:
            nodes = engine.describe()["nodes"]
        sqnr_db = compare("alexnet.onnx", device, LEAST_SQNR_DB["fp32"])
        return Done(
            f"logit SQNR {sqnr_db:.1f} dB; nodes {nodes}",
            to_json({"logit_sqnr_db": sqnr_db, "nodes": nodes}),
        )

    return run
