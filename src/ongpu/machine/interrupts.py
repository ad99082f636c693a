"""The door to interrupts: Ctrl-C and the request to end are one thing, and wait where work must be whole.

A terminal that closes and a scheduler that ends a job mean what Ctrl-C means: what runs is ended, what was observed
is sealed. Python makes an exception of Ctrl-C alone, at any line: also between the two halves of a write.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
# A disk that hangs under what is held back must not keep the user for ever.
_INSISTS: Final = 3


class Interrupts:
    """While entered, an interrupt raises :class:`KeyboardInterrupt`: at once, or when nothing holds it any more.

    Only the main thread can have handlers, and only it is interrupted: elsewhere this does nothing. A signal that is
    ignored already (``nohup``) stays so. May be entered within another one, which is then out of use until the end.
    """

    def __init__(self) -> None:
        self._holds = 0
        self._waiting = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals."""
        if _in_main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    @property
    def waiting(self) -> bool:
        """Whether one has arrived and is held back."""
        return self._waiting > 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold interrupts back; one that arrived meanwhile is raised when the last hold ends without an error."""
        if not _in_main_thread():
            yield
            return
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if not self._holds and self._waiting:
            self._raise()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Within a hold: let them act for a while, one that waits first."""
        holds, self._holds = self._holds, 0
        try:
            if self._waiting:
                self._raise()
            yield
        finally:
            self._holds = holds

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._waiting += 1
        if not self._holds or self._waiting >= _INSISTS:
            self._raise()

    def _raise(self) -> NoReturn:
        self._waiting = 0
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
