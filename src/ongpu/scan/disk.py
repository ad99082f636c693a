"""The files of an environment, each looked at once; the large ones several at a time where the disk is waited for."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ongpu.domain.coverage import BinaryCoverage
from ongpu.scan.binary import scan_reader
from ongpu.scan.reader import FileReader
from ongpu.scan.tally import Tally

_MAGIC_BYTES: Final = 8
_MAGICS: Final = (b"\x7fELF", b"MZ", b"!<arch>\n", b"!<thin>\n", b"\x50\xed\x55\xba")
_READERS: Final = 8
_LARGE_BYTES: Final = 1 << 20
_PATIENCE_S: Final = 0.1

Looked = BinaryCoverage | OSError | None


def statuses_of(paths: Iterable[str]) -> dict[str, os.stat_result | OSError]:
    """What each path leads to; one that leads to the file of an earlier one, or to no file, is not among them."""
    found: dict[str, os.stat_result | OSError] = {}
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path in found:
            continue
        try:
            status = os.stat(path)  # noqa: PTH116 - thousands, of which a Path each takes as long as the reading
        except OSError as error:
            found[path] = error
            continue
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode) and not (status.st_ino and identity in seen):
            seen.add(identity)
            found[path] = status
    return found


def read_large(
    groups: Sequence[Mapping[str, str | None]],
    statuses: Mapping[str, os.stat_result | OSError],
    *,
    large_bytes: int = _LARGE_BYTES,
    patience_s: float = _PATIENCE_S,
) -> dict[str, Looked]:
    """What the large files carry, all of their data searched.

    One after the other, which is fastest for what lies in memory; once the disk has to be waited for, several at once.

    :param groups: the paths of each package with their digests; of several of one digest the first alone is read.
    :param patience_s: how long may be waited for the disk before that.
    """
    paths: list[str] = []
    for group in groups:
        digests: set[str] = set()
        for path, digest in group.items():
            status = statuses.get(path)
            large = isinstance(status, os.stat_result) and status.st_size >= large_bytes
            if large and digest not in digests:
                paths.append(path)
                digests.update([digest] if digest is not None else [])
    found: dict[str, Looked] = {}
    before = _waited_s()
    while paths and _waited_s() - before < patience_s:
        path = paths.pop()
        found[path] = look(path, statuses[path], deep=True)
    if paths:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms of every scan, for the cold ones

        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            answers = pool.map(lambda one: look(one, statuses[one], deep=True), paths)
            found.update(zip(paths, answers, strict=True))
    return found


def _waited_s() -> float:
    """A clock that stands still while this thread computes."""
    return time.perf_counter() - time.thread_time()


def look(path: str, status: os.stat_result | OSError, *, deep: bool) -> Looked:
    """What one file carries: ``None`` where it is no binary, the error where it cannot be opened."""
    if isinstance(status, OSError):
        return status
    try:
        return _read(path, status, deep=deep)
    except OSError as error:
        return error


def _read(path: str, status: os.stat_result, *, deep: bool) -> BinaryCoverage | None:
    with FileReader(path, status) as reader:
        if not reader.read_at(0, _MAGIC_BYTES).startswith(_MAGICS) and not path.endswith(".ptx"):
            return None
        try:
            return scan_reader(reader, path=path, deep=deep)
        except OSError as error:
            tally = Tally()
            tally.problem(f"reading failed: {error.strerror or error}")
            return tally.unreadable(path=path, size_bytes=reader.size)
