"""How a command ends that is told to: Ctrl-C, and SIGTERM from a shell, a scheduler or systemd.

Either becomes an exception, so that what is open is closed and no half-written file stays. Then
Ctrl-C is exit code 130. SIGTERM ends the process by SIGTERM itself: a shell says 143, and systemd
takes it for the clean end that an exit code of 143 would not be. `camera` exits with 0: being told
to stop is how a service ends, and `docker run` passes on nothing but codes.

Python drops what a signal raises in a weak reference's callback, of which every import has some, in
`__del__` and in other places, and some libraries catch whatever is raised while they look for
another: the command would go on. So an exception that is gone although the command is not done is
raised again.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import NoReturn

_EXIT_TERMINATED = 128 + signal.SIGTERM
_LOOK_EVERY_S = 0.05


class Interruption(KeyboardInterrupt):
    """Ends the command. A class of its own: built-in exceptions take no weak references."""


class CleanExit(SystemExit):
    """Ends the command with 0, once what is open has been closed."""


class Termination:
    """Turns Ctrl-C and SIGTERM into exceptions, and remembers which of the two it was."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.exit_cleanly_on_sigterm = False
        self._raised: weakref.ref[BaseException] | None = None
        self._done = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Until the end of the block. A signal that the process was started to ignore stays so."""
        before = {
            number: handler
            for number in (signal.SIGINT, signal.SIGTERM)
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN
        }
        for number in before:
            signal.signal(number, self._raise)
        hook = sys.unraisablehook

        def pass_over(unraisable: sys.UnraisableHookArgs) -> None:
            if not issubclass(unraisable.exc_type, (Interruption, CleanExit)):  # raised again
                hook(unraisable)

        sys.unraisablehook = pass_over
        try:
            yield
        finally:
            self._done.set()
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self) -> NoReturn:
        """End the process as SIGTERM would have."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(_EXIT_TERMINATED)  # the first process of a container cannot kill itself

    def _raise(self, number: int, _: object) -> NoReturn:
        if self.received is None:
            threading.Thread(target=self._raise_again, name="signals", daemon=True).start()
        self.received = signal.Signals(number)
        cleanly = number == signal.SIGTERM and self.exit_cleanly_on_sigterm
        error = CleanExit(0) if cleanly else Interruption()
        self._raised = weakref.ref(error)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, which would hold it

    def _raise_again(self) -> None:
        """Wait for an exception that is dropped, and send its signal to the main thread again."""
        while not self._done.wait(_LOOK_EVERY_S):
            if self._raised is not None and self._raised() is None:
                self._raised = None
                _send_to_main_thread(self.received or signal.SIGINT)


def _send_to_main_thread(number: signal.Signals) -> None:
    if hasattr(signal, "pthread_kill"):  # a call that waits ends
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


TERMINATION = Termination()
"""Of this process: so are signals."""
