"""Random access to bytes, wherever they lie: memory, a file, a stream that only goes forward."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

HISTORY_BYTES: Final = 1 << 20
HEAD_BYTES: Final = 4096
MAX_RESTARTS: Final = 3


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
    """A file, read where it is asked for and never whole. Close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        self._size = os.fstat(self._descriptor).st_size

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        if offset < 0 or offset >= self._size:
            return b""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
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

    The first :data:`HEAD_BYTES` stay, and what was passed last for :data:`HISTORY_BYTES`; a read before that starts
    the stream again, at most :data:`MAX_RESTARTS` times. ``size`` is what the archive's directory promises, and
    nothing past it is taken from the stream, so that a piece that inflates without end costs no more than its promise.

    :param start: begins the stream; called again for a restart.
    """

    def __init__(self, start: Callable[[], Iterator[bytes]], size: int) -> None:
        self._begin = start
        self._pieces = start()
        self._size = size
        self._head = b""
        self._kept = b""
        self._start = 0
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
        if offset < self._start:
            self._restart(offset)
        kept, start = self._kept, self._start
        while start + len(kept) < end:
            piece = next(self._pieces, None)
            if piece is None:
                break
            if len(self._head) < HEAD_BYTES:
                self._head += piece[: HEAD_BYTES - len(self._head)]
            if offset - start >= HISTORY_BYTES + len(kept):
                start, kept = start + len(kept), piece
            elif len(kept) > HISTORY_BYTES:
                drop = min(len(kept) - HISTORY_BYTES, max(0, offset - start))
                start, kept = start + drop, kept[drop:] + piece
            else:
                kept += piece
        self._kept, self._start = kept, start
        return kept[offset - start : end - start] if end > offset else b""

    def _restart(self, offset: int) -> None:
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            raise MalformedError(f"going back to {offset:#x} once more in a compressed member")
        self._pieces = self._begin()
        self._kept, self._start = b"", 0


def inflate(reader: Reader, offset: int, compressed_bytes: int, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
    """Inflate a raw deflate stream in pieces of at most ``piece_bytes``; :class:`MalformedError` if it is broken."""
    engine = zlib.decompressobj(-15)
    end = offset + compressed_bytes
    waiting = b""
    while not engine.eof:
        if not waiting:
            waiting = reader.read_at(offset, min(256 << 10, end - offset)) if offset < end else b""
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
