"""Ctrl-C and SIGTERM while a run trains and saves: they are noted, and the loop ends behind the step in progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

_SECOND_SIGNAL_S: Final = 1.0


@dataclass(slots=True)
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the loop ends after the step it is in.

    ``agreed``: with several ranks, all know of the request of one of them, so that they end after the same step.
    """

    signal_name: str | None = None
    at: float = field(default=0.0)
    agreed: bool = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second SIGINT a second later interrupts at once."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.signal_name and number == signal.SIGINT and now - request.at > _SECOND_SIGNAL_S:
            raise KeyboardInterrupt
        if not request.signal_name:
            request.signal_name, request.at = signal.Signals(number).name, now

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
