"""The calls to the CUDA driver's own library, on a stand-in (see `standins`)."""

from __future__ import annotations

import ctypes.util

import pytest

from alexnet_edge.errors import UnavailableError
from alexnet_edge.machine import Gpu, nvidia_gpus, read_gpus
from alexnet_edge.runtimes.cuda import GraphApi
from tests.runtimes.standins import CudaLibrary

ORIN = {"name": "Orin", "memory": 8 << 30, "attributes": {75: 8, 76: 7, 18: 1}}
ADA = {"name": "RTX 4090", "memory": 24 << 30, "attributes": {75: 8, 76: 9, 18: 0}}


def test_a_stream_is_recorded_instantiated_launched_and_freed():
    library = CudaLibrary()
    api = GraphApi(library)
    graph = api.record(1, lambda: library.calls.append("work"))
    api.launch(graph, 1)
    api.destroy(graph)
    assert library.calls == [
        "cuStreamBeginCapture_v2", "work", "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags", "cuGraphDestroy",
        "cuGraphLaunch", "cuGraphExecDestroy",
    ]  # fmt: skip
    assert graph == 0xAB


def test_work_that_fails_leaves_no_stream_in_capture():
    library = CudaLibrary(fail={"cuStreamEndCapture": 901})

    def work():
        raise KeyError("work")

    with pytest.raises(KeyError, match="work"):
        GraphApi(library).record(1, work)
    assert "cuStreamEndCapture" in library.calls
    assert "cuGraphInstantiateWithFlags" not in library.calls


def test_a_recording_that_is_void_is_named():
    library = CudaLibrary(fail={"cuStreamEndCapture": 901})
    with pytest.raises(UnavailableError, match="cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAP"):
        GraphApi(library).record(1, lambda: None)
    assert "cuGraphInstantiateWithFlags" not in library.calls


def test_a_graph_that_cannot_be_instantiated_is_freed():
    library = CudaLibrary(fail={"cuGraphInstantiateWithFlags": 2})
    with pytest.raises(UnavailableError, match="cuGraphInstantiateWithFlags failed"):
        GraphApi(library).record(1, lambda: None)
    assert library.calls[-1] == "cuGraphDestroy"


def test_a_driver_without_graphs_is_named():
    library = CudaLibrary(fail={"missing": ["cuStreamBeginCapture_v2"]})
    with pytest.raises(UnavailableError, match="has no cuStreamBeginCapture_v2") as refused:
        GraphApi(library).record(1, lambda: None)
    assert "11.4" in refused.value.hint


def test_gpus_are_those_that_the_driver_lists():
    assert read_gpus(CudaLibrary(gpus=[ORIN, ADA])) == (
        Gpu(0, "Orin", "8.7", True, 8 << 30),
        Gpu(1, "RTX 4090", "8.9", False, 24 << 30),
    )


@pytest.mark.parametrize("fail", [{"cuInit": 100}, {"cuDeviceGetCount": 3}])
def test_a_driver_that_does_not_start_has_no_gpu(fail):
    assert read_gpus(CudaLibrary(gpus=[ORIN], fail=fail)) == ()


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="a driver is here")
def test_a_machine_without_a_driver_has_no_gpu():
    assert nvidia_gpus() == ()
