"""What an install says while it works: in place on a terminal, line by line in a log."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Final

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
# uv 0.13.9 with --no-progress, of each large file: "Downloading torch (507.1MiB)", and at its end "Downloaded torch".
_BEGINS = re.compile(r"\s*Downloading (\S+) \(([\d.]+)(B|KiB|MiB|GiB)\)")
_ENDS = re.compile(r"\s*Downloaded (\S+)")
_UNIT: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Of the environment that is made beside its place: nobody is to activate that one.
_SILENT: Final = ("Creating virtual environment", "Activate with", "Using CPython", "Using Python")
_SHOWN = 3


class Progress:
    """Counts what the installer says; ``line`` is the state in one line."""

    def __init__(self) -> None:
        self._last = "working ..."
        self._under_way: dict[str, int] = {}
        self._announced_bytes = 0
        self._done_bytes = 0

    def take(self, line: str) -> bool:
        """Take a line; whether it is one to show in a log."""
        if not line or line.startswith(_SILENT):
            return False
        if began := _BEGINS.match(line):
            size = int(float(began[2]) * _UNIT[began[3]])
            self._under_way[began[1]] = size
            self._announced_bytes += size
        elif (ended := _ENDS.match(line)) and ended[1] in self._under_way:
            self._done_bytes += self._under_way.pop(ended[1])
        else:
            self._last = line
        return True

    @property
    def line(self) -> str:
        """How much of what was begun is there, and what is under way; else the last line."""
        if not self._under_way:
            return self._last
        largest = sorted(self._under_way, key=lambda name: -self._under_way[name])
        more = f" and {len(largest) - _SHOWN} more" if len(largest) > _SHOWN else ""
        there = f"{self._done_bytes / 1e9:.2f} of {self._announced_bytes / 1e9:.2f} GB downloaded"
        return f"{there}; under way: {', '.join(largest[:_SHOWN])}{more}"


def telling(update: Callable[[str], None], *, on_terminal: bool) -> Callable[[bytes], None]:
    """A listener for the installer's output.

    :param update: puts a line in place on the terminal.
    """
    progress = Progress()

    def tell(data: bytes) -> None:
        for raw in re.split(r"[\r\n]", data.decode("utf-8", "replace")):
            line = _CONTROL.sub("", raw).strip()
            if progress.take(line) and not on_terminal:
                print(line, file=sys.stderr, flush=True)
        if on_terminal:
            update(progress.line)

    return tell
