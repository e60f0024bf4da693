"""What `build` prints: the plan of a dry run, or what an engine became."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_edge.cli._ranges import decibels
from alexnet_edge.cli._shared import Output, new_table

if TYPE_CHECKING:
    from alexnet_edge.engine.plan import BuildPlan
    from alexnet_edge.manifest import Manifest


def show_plan(output: Output, plan: BuildPlan) -> None:
    """Print a plan."""
    version = plan.runtime_version or "not installed"
    flags = "as the version that builds will need them"
    if plan.flags is not None:
        flags = ", ".join(plan.flags) or "none"
    facts = {
        "model": plan.model,
        "runtime": f"{plan.runtime} {version}",
        "profile": plan.profile,
        "precision": plan.precision,
        "quantization": plan.quantization,
        "ranges": plan.ranges,
        "batch": plan.batch,
        "typing": plan.typing,
        "builder flags": flags if plan.runtime != "onnxruntime" else None,
        "options": ", ".join(f"{name} {value}" for name, value in plan.options.items()) or None,
        "not on this machine": plan.not_here or None,
        "would write": ", ".join(plan.files),
    }
    listing = new_table("layer", "op", "asked for")
    for layer in plan.layers:
        listing.add_row(layer.name, layer.op, layer.precision)
    output.show(listing)
    for name, value in facts.items():
        if value is not None:
            output.say(f"{name}: {value}")
    output.say("dry run: nothing was built")


def show_manifest(output: Output, engine: Path, manifest: Manifest) -> None:
    """Print what an engine became."""
    devices = manifest.device.get("layers")
    columns = ["layer", "op", "precision"] + ["device"] * bool(devices)
    listing = new_table(*columns)
    for layer in manifest.layers:
        device = [devices.get(layer.name, "unknown")] if devices else []
        listing.add_row(layer.name, layer.op, layer.precision, *device)
    output.show(listing)
    _show_pruning(output, manifest.options)
    _show_int4(output, manifest.options)
    _show_dla(output, manifest)
    if skipping := manifest.options.get("zero_skipping"):
        output.say(f"skips what is zero, at batch 1: {', '.join(skipping)}")
    output.say(
        f"{engine}: {engine.stat().st_size / 1e6:.1f} MB, {_name_precision(manifest)}, "
        f"{manifest.runtime} {manifest.runtime_version}; manifest {engine.name}.json"
    )
    if manifest.preprocess is None:
        output.say("nothing says how images are prepared for it; parity will ask")


def _name_precision(manifest: Manifest) -> str:
    four_bit = manifest.options.get("int4_fc", False)
    return f"{manifest.precision} + 4-bit linear layers" if four_bit else manifest.precision


def _show_int4(output: Output, options: Any) -> None:
    """Print how weights were rounded to 4 bits, and by what evidence."""
    from alexnet_edge.quantize.int4_choice import FIT_IMAGES

    if not options.get("int4_fc", False):
        return
    if options["int4_ranking"]:
        columns = ("logit SQNR dB", "KL", "kept")
        listing = new_table(
            f"4-bit rounding, {options['int4_judged_on']} held-out images", *columns
        )
        for trial in options["int4_ranking"]:
            sqnr = decibels(trial["logit_sqnr_db"])
            listing.add_row(
                trial["candidate"], sqnr, f"{trial['kl']:.2g}", "✓" if trial["kept"] else ""
            )
        output.show(listing)
    fitted = options["int4_fitted_on"]
    said = f"4-bit: blocks of {options['int4_block']}, rounding {options['int4_rounding']}"
    if options["int4_rounding"] == "gptq":
        said += f" to {fitted} images"
        if fitted < FIT_IMAGES:
            said += f"; up to {FIT_IMAGES} make it closer (calibrate --max-images)"
    two_bit = [name for name, layer in options["int4_layers"].items() if layer["bits"] == 2]
    output.say(f"{said}; 2 bits: {', '.join(two_bit)}" if two_bit else said)


def _show_pruning(output: Output, options: Any) -> None:
    """Print what pruning cut off, and what it costs where that was measured."""
    if "pruned" not in options:
        return
    listing = new_table("layer", "relative weight error", "2:4 sparse")
    for layer in options["pruned"]:
        listing.add_row(layer["name"], f"{layer['relative_error']:.1%}", layer["dense"] or "yes")
    output.show(listing)
    if options["ranges_before_pruning"]:
        output.say("the INT8 ranges were measured on the network before pruning")
    loss = options["pruning_loss"]
    if loss is None:
        output.say("what pruning costs was not measured: give --images DIR")
        return
    quantized = "pruned and quantized" if "dialect" in options else "pruned"
    output.say(
        f"{quantized}, simulated on {loss['images']} images: agrees with FP32 on "
        f"{loss['agreement']:.2%}, logit SQNR {decibels(loss['logit_sqnr_db'])} dB"
    )


def _show_dla(output: Output, manifest: Manifest) -> None:
    """Print what a DLA left to the GPU, and what had no range."""
    devices = manifest.device.get("layers")
    if not devices:
        return
    left = [name for name, device in devices.items() if device == "GPU"]
    output.say(
        f"DLA core {manifest.device['dla_core']}: {len(devices) - len(left)} of {len(devices)} "
        f"layers; on the GPU: {', '.join(left) or 'none'}"
    )
    missing = manifest.options.get("without_range")
    if missing:
        output.say(f"without a range, so not INT8: {', '.join(missing)}")
