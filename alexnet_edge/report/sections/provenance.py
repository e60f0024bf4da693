"""Where the figures are from: the machine, the engines' history, and the files themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_edge.report.page import NOTHING, Block, Cell, Section, Table, Text, name
from alexnet_edge.report.sources import Sources
from alexnet_edge.results_files import ResultsFile
from alexnet_edge.results_files.reading import MANIFEST, TABLE


def make_provenance(sources: Sources) -> Section:
    """Return the section; every report has it."""
    blocks: list[Block] = [*_environments(sources), *_sensors(sources)]
    blocks += _compared(sources)
    blocks += [_manifest(file) for file in sources.of(MANIFEST)]
    blocks += [_table(sources, file) for file in sources.of(TABLE)]
    blocks.append(_files(sources))
    return Section("provenance", "Environment and provenance", tuple(blocks))


def _compared(sources: Sources) -> list[Block]:
    """Return which files parity compared, and on which images: a column for each result."""
    rows = sources.parity
    keys = {
        "Engine": "engine_path", "Engine sha256": "engine_sha256",
        "Made from the model with sha256": "model_sha256",
        "Reference": "reference_path", "Reference sha256": "reference_sha256",
        "Images": "images_name", "Images sha256": "images_sha256",
    }  # fmt: skip
    if not any(row.raw.get(key) for row in rows for key in keys.values()):
        return []
    listing = tuple(
        (Cell(label), *(_stated(row.raw.get(key)) for row in rows)) for label, key in keys.items()
    )
    heads = tuple(f"{sources.tag(row.file)}: {sources.engine(row)}" for row in rows)
    return [Table("What parity compared", ("", *heads), listing)]


def _stated(value: Any) -> Cell:
    return Cell(str(value), is_name=True) if value else NOTHING


def _environments(sources: Sources) -> list[Block]:
    """One table for all machines: a column each, those of equal runs together."""
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for file in sources.files:
        environment = _environment(file)
        if environment:
            columns.setdefault(tuple(_facts(file, environment)), []).append(sources.tag(file))
    if not columns:
        return [Text(("None of the results says on which machine it was measured.",))]
    keys = list(dict.fromkeys(key for facts in columns for key, _ in facts))
    rows = tuple(
        (Cell(key), *(Cell(dict(facts).get(key, "–"), is_name=key in dict(facts))
                      for facts in columns))
        for key in keys
    )  # fmt: skip
    heads = tuple(f"In {', '.join(tags)}" for tags in columns.values())
    return [Table("Machine, load and versions", ("", *heads), rows)]


def _environment(file: ResultsFile) -> Mapping[str, Any]:
    found = file.data.get("environment")
    if not found and file.data.get("parity"):
        found = file.data["parity"][0].get("environment")
    return found if isinstance(found, dict) else {}


def _facts(file: ResultsFile, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    gpus = [str(gpu.get("name")) for gpu in environment.get("gpus") or []]
    facts: list[tuple[str, Any]] = [
        ("Date", environment.get("date")), ("CPU", environment.get("cpu")),
        ("Cores", environment.get("cores")), ("Board", environment.get("board")),
        ("GPUs", ", ".join(gpus) or ("none" if "gpus" in environment else None)),
        ("System", environment.get("os")), ("Python", environment.get("python")),
        ("Load when it began", environment.get("load_1min")),
    ]  # fmt: skip
    rows = file.data.get("engines") or []
    settings = {key: row for row in rows for key, row in (row.get("settings") or {}).items()}
    for key in settings:
        values = dict.fromkeys(str((row.get("settings") or {}).get(key, "–")) for row in rows)
        facts.append((f"Setting: {key}", "; ".join(values)))
    scenario = file.data.get("scenario") or {}
    told = ("loop", "timed", "interleaved", "duration_s", "warmup_s", "min_samples", "seed")
    facts += [(f"Scenario: {key}", scenario.get(key)) for key in told]
    facts += list((environment.get("packages") or {}).items())
    return [(key, _plain(value)) for key, value in facts if value is not None]


def _sensors(sources: Sources) -> list[Block]:
    """Clocks, temperature, power and throttling, where a run recorded them."""
    rows = []
    for file in sources.files:
        sensors = file.data.get("sensors")
        if not isinstance(sensors, dict):
            continue
        for key, value in sensors.items():
            if value not in (None, [], {}, "") and key not in {"interval_s", "sampler_cpu_share"}:
                rows.append((Cell(key), Cell(sources.tag(file)), Cell(_plain(value), is_name=True)))
    if not rows:
        return []
    return [Table("What the sensors recorded", ("Sensor", "In", "Reading"), tuple(rows))]


def _manifest(file: ResultsFile) -> Table:
    data = file.data
    facts: list[tuple[str, Any]] = [
        ("Runtime", f"{data['runtime']} {data.get('runtime_version') or ''}".strip()),
        ("Precision", data["precision"]),
        ("Layers", _counts(layer["precision"] for layer in data["layers"])),
        ("Engine sha256", data["engine_sha256"]), ("Model sha256", data["model_sha256"]),
        ("Table sha256", data.get("table_sha256")), ("Built on", data.get("device")),
        ("Preprocessing", data.get("preprocess")), ("Classes", len(data.get("classes") or [])),
    ]  # fmt: skip
    return _fact_table(f"Engine: {file.name}", facts)


def _table(sources: Sources, file: ResultsFile) -> Table:
    data = file.data
    images = data.get("images") or {}
    tensors = data["tensors"]
    methods = {m for ranges in tensors.values() if isinstance(ranges, dict) for m in ranges}
    facts: list[tuple[str, Any]] = [
        ("Images", images.get("count")), ("From", images.get("source")),
        ("Images sha256", images.get("sha256")), ("Tensors", len(tensors)),
        ("Methods", ", ".join(sorted(map(str, methods)))), ("Model sha256", data["model_sha256"]),
        ("Preprocessing", data.get("preprocess")), ("Measured by", data.get("tool")),
    ]  # fmt: skip
    return _fact_table(f"Calibration table: {file.name}", facts)


def _fact_table(caption: str, facts: list[tuple[str, Any]]) -> Table:
    rows = tuple(
        (Cell(key), Cell(_plain(value), is_name=True)) for key, value in facts if value is not None
    )
    return Table(caption, ("", "As the file says"), rows)


def _files(sources: Sources) -> Table:
    rows = tuple(
        (Cell(sources.tag(file)), name(file.name), Cell(file.kind), Cell(file.sha256, is_name=True))
        for file in sources.files
    )
    repeated = ", ".join(dict.fromkeys(sources.repeated))
    again = f" Given more than once, and counted once: {repeated}." if repeated else ""
    return Table(
        "The results that this page was made of", ("", "File", "Kind", "sha256"), rows,
        "Every figure names its place in these files (data-from in the HTML)." + again,
    )  # fmt: skip


def _counts(values: Any) -> str:
    counted: dict[str, int] = {}
    for value in values:
        counted[str(value)] = counted.get(str(value), 0) + 1
    return ", ".join(f"{count} {value}" for value, count in counted.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
