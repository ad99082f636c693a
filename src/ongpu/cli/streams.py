"""Standard streams that are closed, full, or that nobody reads any more: they end what is shown, never the work."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import RenderableType


def open_closed_ones() -> None:
    """Give each standard stream that the caller closed (``>&-``) a place to go: nowhere.

    Without that the next file opened would take its number, the journal perhaps, and be written to as stdout is.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(taken, True)
            setattr(sys, name, os.fdopen(taken, "r" if fd == 0 else "w", encoding="utf-8"))


def leave(stream: TextIO) -> None:
    """Let what is still held back in a stream, and what comes, go nowhere."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell(rendered: RenderableType, *, to_stderr: bool = False) -> None:
    """Show what a sealed bundle holds as well: who cannot read it here reads it there, and the status stays its own."""
    from ongpu.cli.frame import show

    with contextlib.suppress(OSError):  # found again, and left, below
        show(rendered, to_stderr=to_stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            leave(stream)


class Patient:
    """A text stream until it fails; from then on nothing is shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        """What Rich asks before it draws."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Its number, whose terminal's size counts."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Show it, if it can be shown."""
        try:
            return self._stream.write(text)
        except OSError:
            leave(self._stream)
            return len(text)

    def flush(self) -> None:
        """Show what was held back, if it can be shown."""
        try:
            self._stream.flush()
        except OSError:
            leave(self._stream)

    def as_file(self) -> IO[str]:
        """This stream, for who asks for a file and uses no more of it than is here."""
        return cast("IO[str]", self)
