"""Writing a journal: observations in order, each line chained to the one before, nothing ever rewritten.

Only the supervisor writes it. The folder is the run's own: it is made here or found empty, opened without
following links, and locked until the journal is closed. What is written has been redacted first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, Self

from ongpu.domain.witness import Observation
from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence.archive import DEFAULT_LIMITS
from ongpu.evidence.chain import GENESIS, MAX_LINE_BYTES, STREAMED, JournalError, link, read_journal, scan_journal
from ongpu.evidence.cleaning import clean
from ongpu.evidence.place import (
    hold_reserve,
    lock,
    nofollow,
    sync_data,
    sync_folder,
    take_folder,
    taken,
    unwritable,
)

__all__ = ["Clock", "Journal", "JournalError", "SystemClock", "read_journal"]

JOURNAL_NAME: Final = "journal.jsonl"
# Streamed kinds are synced together, at most once a second. All others at once.
_SYNC_EVERY_S: Final = 1.0
# Streamed records stop here, so that a checker still takes the journal and the events behind them have room.
_STREAM_LIMIT_BYTES: Final = DEFAULT_LIMITS.journal_bytes - (4 << 20)
_FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


class Clock(Protocol):
    """The two clocks of a record."""

    def wall_s(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def mono_s(self) -> float:
        """Seconds of a clock that never goes back."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def mono_s(self) -> float:
        """Seconds of the system's monotonic clock (one for all processes on Linux)."""
        return time.monotonic()


class Journal:
    """An open journal. Make one with :meth:`create`; it is a ``Recorder`` and may be shared between threads."""

    def __init__(
        self, folder: Path, fd: int, *, clock: Clock, redact: Callable[[str], str], stream_limit_bytes: int
    ) -> None:
        self._folder = folder
        self._fd = fd
        self._clock = clock
        self._redact = redact
        self._lock = threading.Lock()
        self._seq = 0
        self._head = GENESIS
        self._length_bytes = 0
        self._last_mono_s = 0.0
        self._synced_at_s = float("-inf")
        self._reserve_fd: int | None = None
        self._closed = False
        self._dropped_bytes = 0
        self._run_id: object = None
        self._stream_limit_bytes = stream_limit_bytes
        self._full_seq: int | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        clock: Clock,
        redact: Callable[[str], str],
        stream_limit_bytes: int = _STREAM_LIMIT_BYTES,
    ) -> Self:
        """Make ``folder`` (mode 0700) or take it where it is empty, and start a journal in it.

        Beyond ``stream_limit_bytes`` streamed records are dropped, which one ``journal.full`` record says.

        Raises :class:`UsageError` where the folder is taken, is a link or a file, or cannot be written: nothing
        of it has been touched then.
        """
        take_folder(folder)
        path = folder / JOURNAL_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | nofollow(), 0o600)
        except FileExistsError:
            raise taken(folder) from None
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            lock(fd)
            journal = cls(folder, fd, clock=clock, redact=redact, stream_limit_bytes=stream_limit_bytes)
            journal._reserve_fd = hold_reserve(folder)
            sync_folder(folder)
        except OSError as error:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise unwritable(folder, error) from error
        return journal

    @classmethod
    def reopen(cls, folder: Path, *, clock: Clock, redact: Callable[[str], str]) -> Self:
        """Open the journal of a run that was cut off, dropping a torn last line; used to recover it.

        Raises :class:`UsageError` where there is none, or a living run still holds it, and
        :class:`JournalError` where it is damaged otherwise: it is then left as it is.
        """
        path = folder / JOURNAL_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | nofollow())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be opened: {error.strerror}.",
                next_step="Name the folder of a run that was started with --evidence.",
            ) from error
        try:
            lock(fd)
        except OSError as error:
            os.close(fd)
            raise UsageError(
                f"{path} is still being written by a running ongpu.", next_step="Let that run end, or stop it."
            ) from error
        try:
            reading = scan_journal(_read_all(fd))
        except JournalError:
            os.close(fd)
            raise
        if reading.torn_bytes:
            os.ftruncate(fd, reading.good_bytes)
        journal = cls(folder, fd, clock=clock, redact=redact, stream_limit_bytes=_STREAM_LIMIT_BYTES)
        journal._dropped_bytes = reading.torn_bytes
        journal._seq = len(reading.observations)
        journal._head = reading.head
        journal._length_bytes = reading.good_bytes
        if reading.observations:
            journal._last_mono_s = reading.observations[-1].t_mono
            journal._run_id = reading.observations[0].data.get("run_id")
        return journal

    @property
    def folder(self) -> Path:
        """Where the bundle is being made."""
        return self._folder

    @property
    def head(self) -> str:
        """The chain value of the last line."""
        return self._head

    @property
    def length(self) -> int:
        """How many records there are."""
        return self._seq

    @property
    def dropped_bytes(self) -> int:
        """How long the torn last line was that reopening dropped."""
        return self._dropped_bytes

    def record(self, kind: str, data: Mapping[str, object]) -> int:
        """Append one observation and return its ``seq``.

        An event carries the run id that ``run.start`` named. Strings are redacted; what JSON cannot carry is
        replaced and named in ``data["replaced"]``. An event is on the disk when this returns. Raises
        :class:`WorkError` where it could not be written: the journal then ends with the record before.
        """
        cleaned = clean(data, self._redact)
        with self._lock:
            if self._closed:
                raise WorkError("The journal is closed.", next_step="Record observations before the bundle is sealed.")
            try:
                if kind in STREAMED and self._length_bytes >= self._stream_limit_bytes:
                    return self._say_full()
                return self._append(kind, cleaned)
            except OSError as error:
                self.give_back_reserve()
                if error.errno in _FULL:
                    with contextlib.suppress(OSError):
                        lost = {
                            "code": errno.errorcode.get(error.errno or 0, "unknown"),
                            "reason": f"a record of kind {kind} was lost",
                        }
                        self._append("journal.error", lost)
                raise WorkError(
                    f"The journal {self._folder / JOURNAL_NAME} cannot be written: {error.strerror}.",
                    next_step="Free space on that disk, or name another folder with --evidence.",
                ) from error

    def observations(self) -> tuple[Observation, ...]:
        """What stands in the file now: redacted, and read as the checker reads it.

        Raises :class:`RefusedError` where that is not what was written: somebody else wrote into it.
        """
        with self._lock:
            try:
                reading = scan_journal(_read_all(self._fd))
            except JournalError as error:
                raise self._edited(str(error)) from error
            if reading.head != self._head or reading.torn_bytes:
                raise self._edited("its last line is another")
            return reading.observations

    def _edited(self, what: str) -> RefusedError:
        return RefusedError(
            f"The journal {self._folder / JOURNAL_NAME} was changed from outside while the run went on: {what}.",
            next_step="Find what writes into that folder, and run again with another one.",
        )

    def close(self) -> None:
        """Sync and close. Errors that only show here are raised as :class:`WorkError`. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.give_back_reserve()
            try:
                try:
                    os.fsync(self._fd)
                finally:
                    os.close(self._fd)
            except OSError as error:
                raise WorkError(
                    f"The journal in {self._folder} could not be synced to the disk: {error.strerror}.",
                    next_step="Check that disk; the run is not sealed.",
                ) from error

    def _append(self, kind: str, cleaned: Mapping[str, object]) -> int:
        seq = self._seq
        if seq == 0:
            self._run_id = cleaned.get("run_id")
        elif kind not in STREAMED:
            cleaned = {**cleaned, "run_id": self._run_id}
        # Read inside the lock, so that lines stand in the order of their times; never behind the line before,
        # which matters where a journal is recovered after a reboot.
        mono_s = max(round(self._clock.mono_s(), 6), self._last_mono_s)
        record = {
            "seq": seq,
            "prev": self._head,
            "t_wall": float(round(self._clock.wall_s(), 6)),
            "t_mono": float(mono_s),
            "kind": kind,
            "data": cleaned,
        }
        line = _encode(record)
        if len(line) > MAX_LINE_BYTES:
            reason = f"the record had {len(line)} bytes; a line may have {MAX_LINE_BYTES}"
            line = _encode(record | {"data": {"replaced": [reason], "run_id": self._run_id}})
        self._write(line + b"\n")
        self._seq, self._head, self._last_mono_s = seq + 1, link(self._head, line), mono_s
        self._length_bytes += len(line) + 1
        if kind not in STREAMED or mono_s - self._synced_at_s >= _SYNC_EVERY_S:
            sync_data(self._fd)
            self._synced_at_s = mono_s
        return seq

    def _say_full(self) -> int:
        """What counts its records will find some missing, so a run that comes here is not proven by them."""
        if self._full_seq is None:
            limit = {"limit_bytes": self._stream_limit_bytes, "reason": "later readings were dropped"}
            self._full_seq = self._append("journal.full", limit)
        return self._full_seq

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            # Half a line must not stay: the next one would be glued to it.
            os.ftruncate(self._fd, self._length_bytes)
            raise

    def give_back_reserve(self) -> None:
        """Free the disk space that was held for the last records and the pages; to be done before those are written."""
        if self._reserve_fd is not None:
            os.close(self._reserve_fd)
            self._reserve_fd = None


def _encode(record: Mapping[str, object]) -> bytes:
    # ASCII only: escape sequences and bidirectional controls are inert to whoever prints the file.
    return json.dumps(record, allow_nan=False, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    os.lseek(fd, 0, os.SEEK_SET)
    chunks = []
    while size > 0 and (chunk := os.read(fd, min(size, 1 << 20))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
