"""Sources by name; `uri` lists them."""

from __future__ import annotations

from alexnet_edge.camera.sources.base import Source, Timeouts
from alexnet_edge.camera.sources.uri import SourceName, parse_source

__all__ = ["Source", "SourceName", "Timeouts", "make_source", "parse_source"]

_DEFAULT_TIMEOUTS = Timeouts()


def make_source(name: str | SourceName, timeouts: Timeouts = _DEFAULT_TIMEOUTS) -> Source:
    """Return the source that a name describes; it is not opened yet.

    Args:
        name: see `alexnet_edge.camera.sources.uri`.
        timeouts: how long it may take to open, and from frame to frame.

    Raises:
        InputError: the name is none of a source.
        MissingDependencyError: PyAV is needed and not installed.
    """
    from alexnet_edge.camera.sources.av_stream import AvSource
    from alexnet_edge.camera.sources.folder import FolderSource
    from alexnet_edge.camera.sources.paced import LoopedSource, PacedSource
    from alexnet_edge.camera.sources.raw_stream import RawSource, csi_source

    parsed = parse_source(name) if isinstance(name, str) else name
    if parsed.kind == "csi":
        return csi_source(parsed)
    if parsed.kind == "raw":
        raw = RawSource(parsed)
        return LoopedSource(raw) if parsed.flag("loop") else raw
    if parsed.kind not in {"folder", "video"}:
        return AvSource(parsed, timeouts)
    source: Source = FolderSource(parsed) if parsed.kind == "folder" else AvSource(parsed, timeouts)
    if parsed.flag("loop"):
        source = LoopedSource(source)
    if parsed.flag("live"):
        source = PacedSource(source)
    return source
