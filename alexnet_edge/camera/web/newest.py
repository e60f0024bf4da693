"""What the loop handed over last: its thread writes, the server's reads."""

from __future__ import annotations

from alexnet_edge.camera.frames import Answer, Event

KEPT_EVENTS = 20


class Newest:
    """The newest answer and the last events.

    No lock: both are replaced as a whole, which a reader on another thread sees before or after.

    Attributes:
        answer: None before the first.
        events: the last `KEPT_EVENTS`, oldest first.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.events: tuple[Event, ...] = ()

    def add(self, event: Event) -> None:
        """Append an event, and forget the oldest beyond `KEPT_EVENTS`."""
        self.events = (*self.events, event)[-KEPT_EVENTS:]
