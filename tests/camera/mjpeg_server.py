"""A camera for tests: MJPEG over HTTP, with the faults that real ones have.

python tests/camera/mjpeg_server.py PORT [fps=30] [count=N] [freeze=N] [corrupt=K] [resize=N]

Prints its port. `count`: closes the connection after N frames; `freeze`: sends no more after N but
keeps the connection; `corrupt`: cuts every K-th JPEG short; `resize`: another size after N.
"""

from __future__ import annotations

import http.server
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.camera.scenes import jpeg, numbered

OPTIONS = {"fps": 30, "count": 0, "freeze": 0, "corrupt": 0, "resize": 0}
OPTIONS.update(
    (key, int(value)) for key, _, value in (text.partition("=") for text in sys.argv[2:])
)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        index = 0
        try:
            while not OPTIONS["count"] or index < OPTIONS["count"]:
                self.send_frame(index)
                index += 1
                if OPTIONS["freeze"] and index >= OPTIONS["freeze"]:
                    time.sleep(3600)
                time.sleep(1 / OPTIONS["fps"])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_frame(self, index: int) -> None:
        size = (320, 240) if OPTIONS["resize"] and index >= OPTIONS["resize"] else (160, 120)
        data = jpeg(numbered(index % 4096, *size))
        if OPTIONS["corrupt"] and index % OPTIONS["corrupt"] == OPTIONS["corrupt"] - 1:
            data = data[: len(data) // 3]
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data + b"\r\n")
        self.wfile.flush()


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)  # noqa: T201
server.serve_forever()
