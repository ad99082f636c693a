"""The command line: parse, call, print, exit status."""

from __future__ import annotations

import signal
from types import FrameType


def main() -> None:
    """Run the command of ``sys.argv`` and leave with its exit status."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _interrupt)
    from ongpu.cli.app import app

    app()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """A polite end, from a scheduler or a closed terminal, is an interrupt: children are ended, evidence is sealed."""
    raise KeyboardInterrupt
