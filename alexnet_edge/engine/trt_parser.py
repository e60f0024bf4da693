"""The vendor's ONNX parser: all of its errors, translated and with the node named."""

from __future__ import annotations

import dataclasses
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from alexnet_edge.engine.vendor import EngineJob
from alexnet_edge.errors import BuildError

if TYPE_CHECKING:
    import tensorrt as trt


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a kind of error is recognized, and told.

    Attributes:
        pattern: found in the error's text, whatever the case.
        problem: what it means.
        hint: how to mend it.
    """

    pattern: str
    problem: str
    hint: str


_OPERATOR = Rule(
    r"no importer|unsupported operator|plugin.*not found|^false$",
    "the operator is not supported",
    "leave the operator out of the graph, or build with a later version",
)
_TYPE = Rule(
    r"has type|same type|data ?type",
    "a type is not supported there",
    "keep weights and biases FP32 in the graph; biases take no Q/DQ",
)
_DYNAMIC = Rule(
    r"dynamic|data.dependent|build.time constant",
    "a shape is only known when it runs",
    "export with a fixed --batch, and without shapes that are computed",
)
_ATTRIBUTE = Rule(
    r"attribute|\baxis\b|dilations",
    "an attribute is not supported",
    "change the attribute in the graph, or build with a later version",
)
_SHAPE = Rule(
    r"volume|dimension|broadcast|must match|shape",
    "a shape does not fit",
    "check the graph's shapes; it was damaged, or exported for another input",
)
_DAMAGED = Rule(
    r"deserializ|failed to parse",
    "the graph could not be read",
    "it is larger than 2 GB, or damaged; export it again",
)
RULES = (
    Rule(
        r"opset",
        "its opset is newer than the parser",
        "export with --opset 17, which every version from 8.5 on reads",
    ),
    Rule(
        r"zero.?point|shift.*zero",
        "its zero point is not 0",
        "quantize symmetrically: give the FP32 graph, and let build insert the Q/DQ",
    ),
    Rule(
        r"scale.*positive|positive.*scale",
        "a scale is not positive",
        "calibrate again: a range is empty or damaged",
    ),
    _OPERATOR, _TYPE, _DYNAMIC, _ATTRIBUTE, _SHAPE, _DAMAGED,
)  # fmt: skip
"""In order: the first whose pattern is found explains an error."""

_BY_CODE = {
    "UNSUPPORTED_NODE_DATATYPE": _TYPE,
    "UNSUPPORTED_NODE_DYNAMIC": _DYNAMIC,
    "UNSUPPORTED_NODE_ATTR": _ATTRIBUTE,
    "UNSUPPORTED_NODE_SHAPE": _SHAPE,
    "UNSUPPORTED_NODE_INPUT": _SHAPE,
    "MODEL_DESERIALIZE_FAILED": _DAMAGED,
}
"""Versions from 10 on tell more by their codes; a text that a rule knows says still more."""

_OTHER = Rule("", "it cannot be imported", "check the node in the graph")
_SHOWN, _LONGEST = 5, 200

_NOISE = re.compile(
    r"^\[check.*|^Invalid Node - .*|^.*?Error Code \d+: |^Assertion failed: |\s*In \S+ at \S+:\d+",
    re.MULTILINE,
)
"""What the library says of itself: its own source files, and that it found no driver."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One error of the parser.

    Attributes:
        node: name of the node it is about; empty where it is about none.
        operator: of that node.
        code: as the parser gave it.
        text: what it said, less what it said of itself.
    """

    node: str
    operator: str
    code: str
    text: str

    @property
    def rule(self) -> Rule:
        """What explains it."""
        for rule in RULES:
            if re.search(rule.pattern, self.text, re.IGNORECASE):
                return rule
        return _BY_CODE.get(self.code, _OTHER)

    def __str__(self) -> str:
        node = f"{self.node} ({self.operator})" if self.operator else self.node
        said = "" if self.text in {"", "false"} else f" [{self.text}]"
        return f"{node or 'the graph'}: {self.rule.problem}{said}"


def parse_graph(
    vendor: ModuleType, network: trt.INetworkDefinition, logger: trt.ILogger, job: EngineJob
) -> None:
    """Fill a network with a job's graph.

    Raises:
        BuildError: the parser refuses it; every node that it names is named, with how to mend the
            first.
    """
    parser: trt.OnnxParser = vendor.OnnxParser(network, logger)
    proto = ir.to_proto(job.model)
    if parser.parse(proto.SerializeToString()):
        return
    problems = [
        read_problem(parser.get_error(index), proto.graph) for index in range(parser.num_errors)
    ]
    shown = [str(problem) for problem in dict.fromkeys(problems)]
    rest = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    raise BuildError(
        f"{job.source}: the parser refuses it ({'; '.join(shown[:_SHOWN]) or 'no reason'}{rest})",
        hint=(problems[0].rule if problems else _OTHER).hint,
    )


def read_problem(error: Any, graph: onnx.GraphProto) -> Problem:
    """Return a parser's error; its node is looked up in the graph where the version only counts."""
    index = error.node()
    node = graph.node[index] if 0 <= index < len(graph.node) else onnx.NodeProto()
    named = error.node_name() if hasattr(error, "node_name") else node.name
    operator = error.node_operator() if hasattr(error, "node_operator") else node.op_type
    code = error.code()
    text = " ".join(_NOISE.sub("", str(error.desc())).split())[:_LONGEST]
    return Problem(named, operator, str(getattr(code, "name", code)), text)
