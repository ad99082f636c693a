"""A wheel, streamed: its binaries are inflated piece by piece and never lie on the disk or whole in memory."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ongpu.domain.coverage import BinaryCoverage, PackageCoverage, ScanReport
from ongpu.errors import UsageError
from ongpu.scan.binary import scan_reader
from ongpu.scan.files import may_have_code
from ongpu.scan.reader import FileReader, ForwardReader, MalformedError, Reader, inflate
from ongpu.scan.tally import Tally

_LOCAL = struct.Struct("<4s5H3I2H")
_NAME_PARTS: Final = 2
_WORKERS: Final = 4


class _StoredReader:
    """A member that is stored as it is: a part of the archive, at random."""

    def __init__(self, reader: Reader, offset: int, size: int) -> None:
        self._reader = reader
        self._offset = offset
        self.size = size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        if offset < 0 or offset >= self.size:
            return b""
        return self._reader.read_at(self._offset + offset, min(size, self.size - offset))


def scan_wheel(path: Path, *, deep: bool = True) -> tuple[BinaryCoverage, ...]:
    """The coverage of each binary in a wheel that carries device code, or could not be read.

    :raises UsageError: when the file is no zip archive. A broken member is a problem of that member alone.
    """
    kept = (one for one in _scan_members(path, deep=deep) if one.has_code or one.problems or one.rocm)
    return tuple(sorted(kept, key=lambda one: one.path))


def scan_wheel_report(path: Path, *, deep: bool = True) -> ScanReport:
    """The same as a report of one package, named by the file's name."""
    every = sorted(_scan_members(path, deep=deep), key=lambda one: one.path)
    kept = tuple(one for one in every if one.has_code or one.problems or one.rocm)
    parts = path.name.split("-")
    name, version = (parts[0], parts[1]) if len(parts) > _NAME_PARTS else (path.stem, "")
    package = PackageCoverage(name=name, version=version, binaries=kept, host_only=len(every) - len(kept))
    problems = tuple(f"{one.path}: {text}" for one in kept for text in one.problems)
    return ScanReport(target=str(path), packages=(package,), problems=problems, files_read=len(every), deep=deep)


def _scan_members(path: Path, *, deep: bool) -> Iterator[BinaryCoverage]:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms of every scan, for wheels alone

    members = _members(path)
    try:
        with FileReader(path) as reader:
            # Inflating lets go of the interpreter lock, so members go side by side, the large ones first.
            members.sort(key=lambda one: -one.file_size)
            with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
                for coverage in pool.map(lambda one: _scan_member(reader, one, deep=deep), members):
                    if coverage.format != "other" or coverage.problems:
                        yield coverage
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.", next_step="Give a readable .whl file.") from error


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                one for one in archive.infolist() if one.filename and not one.is_dir() and may_have_code(one.filename)
            ]
    # A broken directory makes zipfile raise whatever its first wrong step raises (seen in 15,000 mutated wheels:
    # UnicodeDecodeError and IndexError); to us they are one thing.
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error, EOFError) as error:
        raise UsageError(f"{path} is not a readable wheel: {error}.", next_step="Give a .whl file.") from error


def _scan_member(reader: Reader, member: zipfile.ZipInfo, *, deep: bool) -> BinaryCoverage:
    try:
        local = reader.read_at(member.header_offset, _LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise MalformedError("the member has no local header")
        row = _LOCAL.unpack(local)
        start = member.header_offset + _LOCAL.size + row[9] + row[10]
        if member.flag_bits & 1:
            raise MalformedError("the member is encrypted")
        if member.compress_type == zipfile.ZIP_STORED:
            return scan_reader(_StoredReader(reader, start, member.file_size), path=member.filename, deep=deep)
        if member.compress_type != zipfile.ZIP_DEFLATED:
            raise MalformedError(f"compression method {member.compress_type} is not read")

        def start_over() -> Iterator[bytes]:
            return inflate(reader, start, member.compress_size)

        stream = ForwardReader(start_over, member.file_size)
        return scan_reader(stream, path=member.filename, deep=deep)
    except MalformedError as error:
        tally = Tally()
        tally.problem(str(error))
        return tally.unreadable(path=member.filename, size_bytes=member.file_size)
