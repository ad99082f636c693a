"""The files of a bundle as a report reads them: from a folder, or from a zip file that is never extracted."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ongpu.errors import UsageError
from ongpu.evidence.archive import ArchiveError, Limits, read_bundle
from ongpu.evidence.statement import JOURNAL_NAME

_LIMITS: Final = Limits(seconds=60.0)
_TAIL_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """One text file of a bundle: its size and its last lines."""

    name: str
    size_bytes: int
    text: str


class FolderFiles:
    """The files of a folder. Its methods raise :class:`OSError`; links are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def journal(self) -> bytes:
        """The journal, whole. Raises :class:`UsageError` where it is larger than a report reads."""
        path = self._folder / JOURNAL_NAME
        if path.stat().st_size > _LIMITS.journal_bytes or not path.is_file():
            raise UsageError(
                f"{path} is no file, or larger than {_LIMITS.journal_bytes >> 20} MiB.",
                next_step="Name a log file instead.",
            )
        return path.read_bytes()

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        path = self._folder / name
        return path.is_file() and not path.is_symlink()

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file, piece by piece."""
        with (self._folder / name).open("rb") as stream:
            yield from iter(lambda: stream.read(_CHUNK_BYTES), b"")

    def tail(self, name: str) -> LogTail:
        """The end of the file."""
        with (self._folder / name).open("rb") as stream:
            return _tail(name, stream)


class ZipFiles:
    """The files of a zip file, read once under the limits of a check.

    :raises UsageError: it is no bundle, or not one that can be read safely.
    """

    def __init__(self, path: Path, *, names: Iterable[str]) -> None:
        try:
            contents = read_bundle(path, limits=_LIMITS, also_keep=frozenset(names))
        except ArchiveError as error:
            raise UsageError(
                f"{path} is no bundle that can be read: {error}.",
                next_step="Unpack it, then name the bundle's folder or the log file in it.",
            ) from error
        if JOURNAL_NAME not in contents.kept:
            raise UsageError(
                f"{path} is no bundle: it holds no {JOURNAL_NAME}.",
                next_step="Unpack it, then name the log file in it: ongpu diagnose FILE",
            )
        self._kept = contents.kept

    def journal(self) -> bytes:
        """The journal, whole."""
        return self._kept[JOURNAL_NAME]

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._kept

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file, in one piece."""
        yield self._kept[name]

    def tail(self, name: str) -> LogTail:
        """The end of the file."""
        return _tail(name, io.BytesIO(self._kept[name]))


def _tail(name: str, stream: IO[bytes]) -> LogTail:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _TAIL_BYTES))
    text = stream.read().decode("utf-8", "replace")
    if size > _TAIL_BYTES:
        text = text.partition("\n")[2]
    return LogTail(name=name, size_bytes=size, text=text)
