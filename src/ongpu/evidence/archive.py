"""Reading a bundle that may be hostile: a folder, or a zip file that is never extracted.

Every member is read once, as a stream, under limits; its digest and the bytes kept come from that one
reading. Names are plain ASCII, so that no two of them can be one name to another file system or to an eye.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ongpu.evidence.statement import ENVELOPE_NAME, JOURNAL_NAME, MANIFEST_NAME, FileDigest

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-])?")
_DEVICE_NAMES: Final = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_MAX_NAME_DEPTH: Final = 4
_CHUNK: Final = 1 << 18
_END: Final = struct.Struct("<4s4H2LH")
_LOCAL_HEADER_BYTES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bundle may cost the reader."""

    entries: int = 64
    total_bytes: int = 256 << 20
    journal_bytes: int = 64 << 20
    small_file_bytes: int = 4 << 20
    ratio: int = 200
    seconds: float = 8.0


DEFAULT_LIMITS: Final = Limits()


class ArchiveError(ValueError):
    """The bundle cannot be read safely.

    :param obligation: the number of the obligation in :mod:`ongpu.evidence.obligations` that it breaks.
    """

    def __init__(self, obligation: int, message: str) -> None:
        super().__init__(message)
        self.obligation = obligation


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was read: the digest of every file, and the bytes of those that are looked into."""

    files: Mapping[str, FileDigest]
    kept: Mapping[str, bytes]


def read_bundle(
    path: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    clock_s: Callable[[], float] = time.monotonic,
    also_keep: frozenset[str] = frozenset(),
) -> Contents:
    """Read the folder or zip file at ``path``. Raises :class:`ArchiveError`; writes nothing anywhere.

    :param also_keep: files whose bytes are kept besides those that a check looks into.
    """
    reading = _Reading(limits, clock_s, also_keep)
    try:
        if path.is_dir():
            for name, stream in _folder_members(path, limits):
                with stream:
                    reading.take(name, stream)
        else:
            _read_zip(path, limits, reading)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise ArchiveError(1, f"{path.name} cannot be read: {error}") from error
    return Contents(files=reading.files, kept=reading.kept)


def is_plain(name: str) -> bool:
    """Whether ``name`` may stand in a bundle: relative, ``/`` between plain ASCII parts, no part hidden."""
    parts = name.split("/")
    return len(parts) <= _MAX_NAME_DEPTH and all(
        _SEGMENT.fullmatch(part) and not _DEVICE_NAMES.fullmatch(part) for part in parts
    )


class _Reading:
    """The state of one reading: what was taken so far, and what is left of the limits."""

    def __init__(self, limits: Limits, clock_s: Callable[[], float], also_keep: frozenset[str]) -> None:
        self._also_keep = also_keep
        self.files: dict[str, FileDigest] = {}
        self.kept: dict[str, bytes] = {}
        self._folded: dict[str, str] = {}
        self._limits = limits
        self._left_bytes = limits.total_bytes
        self._clock_s = clock_s
        self._deadline_s = clock_s() + limits.seconds

    def take(self, name: str, stream: IO[bytes], *, declared_bytes: int | None = None) -> None:
        if not is_plain(name):
            raise ArchiveError(2, f"{name!a} is not a plain name")
        twin = self._folded.setdefault(name.casefold(), name)
        if name in self.files or twin != name:
            raise ArchiveError(2, f"{name!a} and {twin!a} are one name")
        if len(self.files) >= self._limits.entries:
            raise ArchiveError(1, f"it holds more than {self._limits.entries} files")
        keep = self._keep_bytes(name)
        digest, size, parts = hashlib.sha256(), 0, []
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise ArchiveError(1, f"it holds more than {self._limits.total_bytes} bytes")
            if self._clock_s() > self._deadline_s:
                raise ArchiveError(1, f"reading it took more than {self._limits.seconds:g} s")
            digest.update(chunk)
            if keep:
                if size > keep:
                    raise ArchiveError(1, f"{name} is larger than {keep} bytes")
                parts.append(chunk)
        if declared_bytes is not None and size != declared_bytes:
            raise ArchiveError(1, f"{name} has {size} bytes, not the {declared_bytes} its header says")
        self.files[name] = FileDigest(size_bytes=size, sha256=digest.hexdigest())
        if keep:
            self.kept[name] = b"".join(parts)

    def _keep_bytes(self, name: str) -> int:
        if name == JOURNAL_NAME or name in self._also_keep:
            return self._limits.journal_bytes
        if name in {MANIFEST_NAME, ENVELOPE_NAME, "README.md", "verdict.json", "nvidia_smi.txt"}:
            return self._limits.small_file_bytes
        return 0


def _folder_members(root: Path, limits: Limits) -> Iterator[tuple[str, IO[bytes]]]:
    pending = [""]
    seen = 0
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as found:
            # Not sorted whole: a folder of a million entries is refused after the first few.
            entries = [entry for entry, _ in zip(found, range(limits.entries + 3), strict=False)]
        if prefix and not entries:
            raise ArchiveError(2, f"{prefix!a} is an empty folder")
        for entry in sorted(entries, key=lambda one: one.name):
            seen += 1
            if seen > 2 * limits.entries:
                raise ArchiveError(1, f"it holds more than {limits.entries} files")
            name = f"{prefix}{entry.name}"
            if not is_plain(name):
                raise ArchiveError(2, f"{name!a} is not a plain name")
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                pending.append(f"{name}/")
            elif stat.S_ISREG(mode):
                yield name, _open_regular(root / name, name)
            else:
                raise ArchiveError(3, f"{name!a} is neither a file nor a folder ({stat.filemode(mode)[0]})")


def _open_regular(path: Path, name: str) -> IO[bytes]:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveError(3, f"{name!a} is not a regular file")
    return os.fdopen(fd, "rb")


def _read_zip(path: Path, limits: Limits, reading: _Reading) -> None:
    with _open_regular(path, path.name) as file:
        directory_at = _look_at_end(file, limits)
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _refuse_overlaps(infos, directory_at)
            strip = _common_folder([info.filename for info in infos])
            for info in infos:
                _refuse_special(info)
                if info.is_dir():
                    held = any(one.filename.startswith(info.filename) for one in infos if one is not info)
                    if info.file_size or not held or not is_plain(info.filename[:-1]):
                        raise ArchiveError(2, f"{info.filename!a} is an empty folder, or not a plain name")
                    continue
                if info.file_size > limits.ratio * max(info.compress_size, 1 << 10):
                    raise ArchiveError(1, f"{info.filename!a} unpacks to more than {limits.ratio} times its size")
                with archive.open(info) as stream:
                    reading.take(info.filename.removeprefix(strip), stream, declared_bytes=info.file_size)


def _look_at_end(file: IO[bytes], limits: Limits) -> int:
    """Bound the list of members before any reader builds it; returns where that list starts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    if len(tail) < _END.size:
        raise ArchiveError(1, "it is neither a folder nor a zip file")
    end = tail[-_END.size :]
    signature, disk, first_disk, here, entries, directory_bytes, directory_at, comment = _END.unpack(end)
    if signature != b"PK\x05\x06" or comment:
        raise ArchiveError(1, "it is neither a folder nor a zip file without a comment")
    if b"PK\x06\x07" in tail[: -_END.size] or entries == 0xFFFF or disk or first_disk or here != entries:
        raise ArchiveError(1, "it is a zip file of the 64-bit or split kind, which no bundle needs")
    if entries > 2 * limits.entries or directory_bytes > entries * 512:
        raise ArchiveError(1, f"it holds more than {limits.entries} files")
    if directory_at + directory_bytes + _END.size != size:
        raise ArchiveError(1, "its list of members is not where it says")
    return int(directory_at)


def _refuse_overlaps(infos: list[zipfile.ZipInfo], directory_at: int) -> None:
    at = 0
    for info in sorted(infos, key=lambda one: one.header_offset):
        if info.header_offset < at or (at == 0 and info.header_offset != 0):
            raise ArchiveError(1, f"{info.filename!a} overlaps another member, or bytes stand before the first")
        at = info.header_offset + _LOCAL_HEADER_BYTES + len(info.orig_filename.encode()) + info.compress_size
    if at > directory_at:
        raise ArchiveError(1, "a member overlaps the list of members")


def _refuse_special(info: zipfile.ZipInfo) -> None:
    if info.orig_filename != info.filename:
        raise ArchiveError(2, f"{info.orig_filename!a} is not a plain name")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR} or ((kind == stat.S_IFDIR) != info.is_dir() and kind):
        raise ArchiveError(3, f"{info.filename!a} is neither a file nor a folder")
    if info.flag_bits & 0x2041:
        raise ArchiveError(3, f"{info.filename!a} is encrypted")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ArchiveError(3, f"{info.filename!a} is packed by method {info.compress_type}")


def _common_folder(names: list[str]) -> str:
    """``NAME/`` where the folder itself was zipped, so that all members stand under it."""
    heads = {name.split("/", 1)[0] for name in names}
    head = heads.pop() if len(heads) == 1 else ""
    return f"{head}/" if is_plain(head) and all("/" in name for name in names) else ""
