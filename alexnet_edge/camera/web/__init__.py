"""The loop in a browser: live picture, answer, latencies, and metrics for machines.

    server    the sink: an address, a thread, and nothing that the loop waits for
    app       what each address answers
    guard     who may ask
    feed      one value for many readers, made once
    picture  state  metrics     what is served
    static/   the page

aiohttp is imported by `app` and `guard` alone, and they by `WebServer.start`.
"""

from alexnet_edge.camera.web.server import WebServer

__all__ = ["WebServer"]
