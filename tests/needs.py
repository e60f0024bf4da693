"""What some tests need of a machine; where it is missing they are skipped, with the reason."""

from __future__ import annotations

import pytest

from alexnet_edge.engine.versions import parse_version
from alexnet_edge.machine import has_vnni, is_x86, package_versions
from alexnet_edge.quantize.int4 import INT2_ONNXRUNTIME
from alexnet_edge.quantize.int8_blocks import ONNXRUNTIME as BLOCKS_ONNXRUNTIME
from alexnet_edge.runtimes.loader import availability

RTX = availability("tensorrt-rtx")
needs_rtx = pytest.mark.skipif(not RTX.builds, reason=f"tensorrt-rtx: {RTX.reason}")

_ONNXRUNTIME = parse_version(package_versions().get("onnxruntime", "0"))[:2]
HAS_INT2 = _ONNXRUNTIME >= INT2_ONNXRUNTIME
needs_int2 = pytest.mark.skipif(not HAS_INT2, reason="this onnxruntime has no kernel of 2 bits")
needs_blocks = pytest.mark.skipif(
    not (is_x86() and has_vnni() and _ONNXRUNTIME >= BLOCKS_ONNXRUNTIME),
    reason="weights are in blocks on an x86 with VNNI, from onnxruntime 1.23 on",
)
