"""How a command ends that is told to: Ctrl-C, and SIGTERM from a shell, a scheduler or systemd.

Either becomes an exception, so that what is open is closed and no half-written file stays. Then
Ctrl-C is exit code 130. SIGTERM ends the process by SIGTERM itself: a shell says 143, and systemd
takes it for the clean end that an exit code of 143 would not be. `camera` exits with 0: being told
to stop is how a service ends, and `docker run` passes on nothing but codes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

_EXIT_TERMINATED = 128 + signal.SIGTERM


class Termination:
    """Turns SIGTERM into `KeyboardInterrupt`, and remembers which of the two it was."""

    def __init__(self) -> None:
        self.received = False

    def watch(self) -> None:
        """Begin."""
        signal.signal(signal.SIGTERM, self._interrupt)

    def end(self) -> NoReturn:
        """End the process as the signal would have."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(_EXIT_TERMINATED)  # the first process of a container cannot kill itself

    def _interrupt(self, *_: object) -> NoReturn:
        self.received = True
        raise KeyboardInterrupt


def exit_cleanly_on_sigterm() -> None:
    """From now on SIGTERM ends the process with 0, once what is open has been closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
