"""What is closed by leaving a `with` block."""

from __future__ import annotations

import abc
from types import TracebackType

from typing_extensions import Self


class Closing(abc.ABC):
    """Holds something until `close`, or to the end of a `with` block, however that ends."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what is held; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
