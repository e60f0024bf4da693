"""An RTSP camera for tests, with GStreamer's server; needs the system's Python and its packages.

python3 tests/camera/rtsp_server.py PORT

Serves H.264 at rtsp://127.0.0.1:PORT/stream and prints a line when it listens.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1 ! "
    "videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! "
    "rtph264pay name=pay0 pt=96 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/stream", factory)
if not server.attach(None):
    sys.exit("the port is taken")
print("listening", flush=True)  # noqa: T201
GLib.MainLoop().run()
