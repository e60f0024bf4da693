"""Where answers go: a terminal, JSON lines, an annotated video.

Each is a `Sink` of `alexnet_edge.camera.frames`; the browser's is in `alexnet_edge.camera.web`.
"""

from alexnet_edge.camera.sinks.jsonl import JsonLines
from alexnet_edge.camera.sinks.terminal import TerminalView
from alexnet_edge.camera.sinks.video import VideoRecorder

__all__ = ["JsonLines", "TerminalView", "VideoRecorder"]
