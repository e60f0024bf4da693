"""What a target will not take of a graph, said before the build.

for finding in lint_model(onnx.load("model.onnx"), load_profile("orin-nano")):
    print(finding.node, finding.rule, finding.mend)

Every rule is a small function in one of three tables (TensorRT, DLA, CPU) and names its source. A
graph must suit the oldest library of the profile's range: it is meant for every board that the
profile describes. No vendor's library is needed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from alexnet_edge.engine.lint.cpu import CPU_RULES
from alexnet_edge.engine.lint.dla import DLA_RULES
from alexnet_edge.engine.lint.tensorrt import TENSORRT_RULES
from alexnet_edge.engine.lint.view import ERROR, WARNING, Finding, GraphView, Rule
from alexnet_edge.engine.profile import Profile
from alexnet_edge.graph import load_onnx

__all__ = ["ERROR", "WARNING", "Finding", "LintReport", "lint_file", "lint_model", "rules_for"]


@dataclasses.dataclass(frozen=True)
class LintReport:
    """What is wrong with a file for a target.

    Attributes:
        model: the file.
        target: the profile's name.
        findings: in the order of the rules, and of the graph within each.
        errors, warnings: how many of each.
    """

    model: str
    target: str
    findings: tuple[Finding, ...]
    errors: int
    warnings: int


def lint_file(path: Path, profile: Profile) -> LintReport:
    """Hold an ONNX file against a target.

    Raises:
        GraphError: it is missing, truncated or not ONNX.
    """
    findings = lint_model(load_onnx(path), profile)
    return LintReport(
        model=str(path),
        target=profile.name,
        findings=tuple(findings),
        errors=sum(finding.severity == ERROR for finding in findings),
        warnings=sum(finding.severity == WARNING for finding in findings),
    )


def lint_model(model: onnx.ModelProto, profile: Profile) -> list[Finding]:
    """Return what the target will not take, or not run as fast as it could."""
    view = GraphView(model)
    return [finding for rule in rules_for(profile) for finding in rule(view, profile)]


def rules_for(profile: Profile) -> tuple[Rule, ...]:
    """Return the rules that hold for a target."""
    if profile.runtime == "onnxruntime":
        return CPU_RULES
    return TENSORRT_RULES if profile.dla is None else (*TENSORRT_RULES, *DLA_RULES)
