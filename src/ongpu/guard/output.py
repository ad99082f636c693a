"""The child's output: bytes passed through untouched, and kept.

One thread reads each stream, so that a child which fills one pipe while we wait on the other is never held. Where
our own stream is a terminal the child gets one too (a pty without output processing: the bytes stay as written,
and progress bars see a tty).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from ongpu.errors import UsageError

CHUNK = 65536


class Keep:
    """The log file: every byte in the order it came, up to a cap; the digest is of everything.

    :param head_bytes: kept from the start. A bundle may hold three such logs beside its journal, and 256 MiB in all.
    :param tail_bytes: kept from the end once the head is full; what lies between is counted, and named in the file.
    """

    def __init__(self, path: Path | None, *, head_bytes: int = 32 << 20, tail_bytes: int = 4 << 20) -> None:
        self._path = path
        self._head_left = head_bytes
        self._tail_bytes = tail_bytes
        self._tail = bytearray()
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self.total_bytes = 0
        self.dropped_bytes = 0
        self.error: str | None = None
        if path is not None:
            try:
                self._file = path.open("xb", buffering=0)
            except OSError as error:
                raise UsageError(
                    f"The log {path} cannot be created: {error.strerror}.",
                    next_step="Name a new file in a folder you may write.",
                ) from error

    @property
    def sha256(self) -> str:
        """Digest of everything the child wrote, kept or not."""
        return self._digest.hexdigest()

    def add(self, data: bytes) -> None:
        """Take bytes of either stream."""
        with self._lock:
            self.total_bytes += len(data)
            self._digest.update(data)
            head, rest = data[: self._head_left], data[self._head_left :]
            self._head_left -= len(head)
            self._put(head)
            if rest:
                self._tail += rest
                if len(self._tail) > 2 * self._tail_bytes:
                    surplus = len(self._tail) - self._tail_bytes
                    self.dropped_bytes += surplus
                    del self._tail[:surplus]

    def _put(self, data: bytes) -> None:
        if self._file is None or not data:
            return
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.error = f"{error.strerror or error}"
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None

    def discard(self) -> None:
        """Remove the file: nothing was ever written."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write the tail and sync. A disk that is full shows here at the latest: see ``error``."""
        with self._lock:
            surplus = max(0, len(self._tail) - self._tail_bytes)
            self.dropped_bytes += surplus
            del self._tail[:surplus]
            if self.dropped_bytes:
                self._put(b"\n[ongpu: %d bytes left out here]\n" % self.dropped_bytes)
            self._put(bytes(self._tail))
            self._tail.clear()
            if self._file is None:
                return
            try:
                os.fsync(self._file.fileno())
                self._file.close()
            except OSError as error:
                self._give_up(error)
            self._file = None


class Stream:
    """One stream of the child: what ``Popen`` gets, and the thread that reads it."""

    def __init__(self, *, read_fd: int, child_fd: int, console: BinaryIO | None, keep: Keep, terminal: bool) -> None:
        self.child_fd = child_fd
        self.terminal = terminal
        self._read_fd = read_fd
        self._console = console
        self._keep = keep
        self._thread = threading.Thread(target=self._pump, daemon=True)

    def start(self) -> None:
        """The child has its end: close ours and read."""
        os.close(self.child_fd)
        self._thread.start()

    def abandon(self) -> None:
        """The child was never started."""
        os.close(self.child_fd)
        os.close(self._read_fd)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; False when somebody still holds it."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def resize(self) -> None:
        """Give the child's terminal the size of ours."""
        if self.terminal and self._console is not None:
            _copy_size(self._console.fileno(), self._read_fd)

    def _pump(self) -> None:
        while True:
            try:
                data = os.read(self._read_fd, CHUNK)
            except OSError:  # EIO: the last holder of the pty's other side is gone
                data = b""
            if not data:
                break
            if self._console is not None:
                try:
                    self._console.write(data)
                    self._console.flush()
                except (OSError, ValueError):
                    self._console = None  # `| head` has left: the run goes on, its log is kept
            self._keep.add(data)
        with contextlib.suppress(OSError):
            os.close(self._read_fd)


def open_streams(*, console: BinaryIO | None, console_err: BinaryIO | None, keep: Keep) -> tuple[Stream, Stream | None]:
    """The streams for stdout and stderr; the second is ``None`` where one terminal serves both."""
    if _is_terminal(console):
        assert console is not None
        read_fd, child_fd = _open_pty(console)
        out = Stream(read_fd=read_fd, child_fd=child_fd, console=console, keep=keep, terminal=True)
        if console_err is None or _is_terminal(console_err):
            return out, None
    else:
        read_fd, child_fd = os.pipe()
        out = Stream(read_fd=read_fd, child_fd=child_fd, console=console, keep=keep, terminal=False)
    read_fd, child_fd = os.pipe()
    err = Stream(read_fd=read_fd, child_fd=child_fd, console=console_err or console, keep=keep, terminal=False)
    return out, err


def popen_streams(out: Stream, err: Stream | None) -> dict[str, int]:
    """The keyword arguments for :class:`subprocess.Popen`."""
    return {"stdout": out.child_fd, "stderr": subprocess.STDOUT if err is None else err.child_fd}


def _is_terminal(console: BinaryIO | None) -> bool:
    return sys.platform != "win32" and console is not None and console.isatty()


def _open_pty(console: BinaryIO) -> tuple[int, int]:
    import pty  # noqa: PLC0415 - not there on Windows
    import termios  # noqa: PLC0415 - not there on Windows

    read_fd, child_fd = pty.openpty()
    modes = termios.tcgetattr(child_fd)
    modes[1] &= ~termios.OPOST  # the bytes as written: no \n to \r\n
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(child_fd, termios.TCSANOW, modes)
    _copy_size(console.fileno(), read_fd)
    return read_fd, child_fd


def _copy_size(source_fd: int, target_fd: int) -> None:
    import fcntl  # noqa: PLC0415 - not there on Windows
    import termios  # noqa: PLC0415 - not there on Windows

    with contextlib.suppress(OSError):
        size = fcntl.ioctl(source_fd, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(target_fd, termios.TIOCSWINSZ, size)
