"""Random access to bytes, wherever they lie: memory, a file, a stream that only goes forward."""

from __future__ import annotations

import errno
import os
import stat
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

# More than this, and inflating leaves the processor's cache: 1 MiB costs half as much time again (measured).
HISTORY_BYTES: Final = 128 << 10
HEAD_BYTES: Final = 4096
MAX_RESTARTS: Final = 3
MAX_PINNED_BYTES: Final = 8 << 20


class MalformedError(ValueError):
    """The bytes are not what their header promises; the message says where."""


class Reader(Protocol):
    """Bytes by offset. ``read_at`` returns fewer bytes than asked only at the end."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        ...


class BytesReader:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return self._data[offset : offset + size] if offset >= 0 else b""


class FileReader:
    """A file, read where it is asked for and never whole. Close it, or use it in a ``with``.

    :param status: what ``stat`` said of it, where that was asked already.
    """

    def __init__(self, path: str | Path, status: os.stat_result | None = None) -> None:
        status = os.stat(path) if status is None else status  # noqa: PTH116 - of either kind of path
        # Opening a pipe would wait for its writer, forever.
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        self._size = status.st_size
        self._head = b""
        self._seeking = threading.Lock()

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        if offset < 0 or offset >= self._size:
            return b""
        if offset + size <= HEAD_BYTES:  # magic, header and segments: asked for one after the other
            if not self._head:
                self._head = self._read(0, HEAD_BYTES)
            return self._head[offset : offset + size]
        return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._seeking:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> FileReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ForwardReader:
    """A stream of pieces read as if at random, as long as the reads go forward.

    The first :data:`HEAD_BYTES` stay, and what was passed last for :data:`HISTORY_BYTES`; a read before that, and
    outside what was pinned, starts the stream again, at most :data:`MAX_RESTARTS` times. ``size`` is what the
    archive's directory promises, and nothing past it is taken from the stream, so that a piece that inflates without
    end costs no more than its promise.

    :param start: begins the stream; called again for a restart.
    """

    def __init__(self, start: Callable[[], Iterator[bytes]], size: int) -> None:
        self._begin = start
        self._size = size
        self._head = b""
        self._stream = start()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._end = 0
        self._pinned: list[tuple[int, bytes]] = []
        self._pin = range(0)
        self.restarts = 0

    @property
    def size(self) -> int:
        """Length in bytes, as promised by the directory."""
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; raises :class:`MalformedError` when it has to go back too often."""
        end = min(offset + size, self._size)
        if end <= len(self._head):
            return self._head[offset:end]
        if offset < (self._kept[0][0] if self._kept else self._end):
            if offset in self._pin and end <= self._pin.stop and end <= self._end:
                return _cut((*self._pinned, *self._kept), offset, end)
            self._restart(offset)
        while self._end < end:
            piece = next(self._stream, None)
            if piece is None:
                break
            self._keep(piece, offset)
        return _cut(self._kept, offset, end)

    def pin(self, offset: int, size: int) -> None:
        """Keep these bytes (at most :data:`MAX_PINNED_BYTES`) for later once they have passed."""
        self._pin = range(max(0, offset), min(offset + min(size, MAX_PINNED_BYTES), self._size))

    def _keep(self, piece: bytes, wanted: int) -> None:
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
        self._kept.append((self._end, piece))
        self._end += len(piece)
        oldest = min(wanted, self._end - HISTORY_BYTES)
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= oldest:
            start, piece = self._kept.popleft()
            if start < self._pin.stop and start + len(piece) > self._pin.start:
                self._pinned.append((start, piece))

    def _restart(self, offset: int) -> None:
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            raise MalformedError(f"going back to {offset:#x} once more in a compressed member")
        self._stream = self._begin()
        self._kept.clear()
        self._pinned.clear()
        self._end = 0


def _cut(pieces: Iterable[tuple[int, bytes]], offset: int, end: int) -> bytes:
    parts = [
        piece[max(0, offset - start) : end - start]
        for start, piece in pieces
        if start < end and start + len(piece) > offset
    ]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(reader: Reader, offset: int, compressed_bytes: int, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
    """Inflate a raw deflate stream in pieces of at most ``piece_bytes``; :class:`MalformedError` if it is broken."""
    engine = zlib.decompressobj(-15)
    end = offset + compressed_bytes
    waiting = b""
    while not engine.eof:
        if not waiting:
            waiting = reader.read_at(offset, min(64 << 10, end - offset)) if offset < end else b""
            offset += len(waiting)
            if not waiting:
                raise MalformedError("the compressed member ends too early")
        try:
            piece = engine.decompress(waiting, piece_bytes)
        except zlib.error as error:
            raise MalformedError(f"the compressed member is broken: {error}") from error
        waiting = engine.unconsumed_tail
        if piece:
            yield piece
