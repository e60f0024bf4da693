"""From a camera to an answer: sources, the loop, and where its answers go.

    sources   what delivers frames: CSI, V4L2, RTSP, HTTP, files, folders, standard input
    loop      capture, preprocess, inference and output, measured, until it is told to stop
    sinks     where answers go
    web       answers in a browser

`frames` holds what they hand to each other.
"""
