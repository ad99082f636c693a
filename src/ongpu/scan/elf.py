"""The section table of an ELF file of the host (x86-64, aarch64), from bytes."""

from __future__ import annotations

import struct
from typing import Final

from ongpu.scan.reader import MalformedError, Reader
from ongpu.scan.sections import Section

HEADER_BYTES: Final = 64
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_MAX_SECTIONS: Final = 1 << 19
_MAX_NAMES_BYTES: Final = 32 << 20
_SHT_PROGBITS: Final = 1
_SHF_ALLOC, _SHF_EXECUTABLE = 2, 4
_PT_LOAD, _PF_EXECUTABLE = 1, 1
# Unwind tables and pointers filled in at load time: large, and no tool puts images there.
_NEVER_IMAGES: Final = frozenset({".eh_frame", ".eh_frame_hdr", ".gcc_except_table", ".got", ".got.plt", ".interp"})


class Header:
    """The fields of an ELF header that are used here."""

    __slots__ = ("kind", "machine", "names", "sections", "segments", "segments_at", "table_at")

    def __init__(self, head: bytes) -> None:
        """Read the first 64 bytes. Raises :class:`MalformedError` for anything but little-endian ELF64."""
        if len(head) < HEADER_BYTES or not head.startswith(b"\x7fELF"):
            raise MalformedError("the ELF header is cut off")
        if head[4] != 2:
            raise MalformedError("a 32-bit ELF file, which carries no code of any CUDA version since 9")
        if head[5] != 1:
            raise MalformedError("a big-endian ELF file, whose containers are not read")
        row = _HEADER.unpack_from(head)
        self.kind, self.machine = row[1], row[2]
        self.segments_at, self.table_at = row[5], row[6]
        self.segments, self.sections, self.names = row[10], row[12], row[13]
        if self.table_at and row[11] != _SECTION.size:
            raise MalformedError(f"section headers of {row[11]} bytes")


def read_sections(reader: Reader, *, named: tuple[bytes, ...] = ()) -> tuple[Section, ...]:
    """The sections of an ELF file that have bytes in it.

    A file stripped of its section table is described by its loaded segments instead, each called
    ``(segment N)``. Raises :class:`MalformedError`.

    :param named: where none of these is among the names of its sections, no other one is told either.
    """
    header = Header(reader.read_at(0, HEADER_BYTES))
    if not header.table_at:
        return _segments(reader, header)
    table = reader.read_at(header.table_at, max(1, header.sections) * _SECTION.size)
    if len(table) < _SECTION.size:
        raise MalformedError("the section table lies outside the file")
    # Extended numbering: more than 65,279 sections are counted in the first section header.
    row = _SECTION.unpack_from(table)
    count = header.sections or row[5]
    names_index = row[6] if header.names == 0xFFFF else header.names
    if not 0 < count <= _MAX_SECTIONS:
        raise MalformedError(f"a section table of {count} rows")
    if not header.sections:
        table = reader.read_at(header.table_at, count * _SECTION.size)
    if len(table) < count * _SECTION.size or names_index >= count:
        raise MalformedError("the section table is cut off")
    names_row = _SECTION.unpack_from(table, names_index * _SECTION.size)
    if names_row[5] > _MAX_NAMES_BYTES:
        raise MalformedError("the section names are too long")
    names = reader.read_at(names_row[4], names_row[5])
    if named and not any(one in names for one in named):
        return ()
    found: list[Section] = []
    for row in _SECTION.iter_unpack(table):
        if row[1] != _SHT_PROGBITS or not row[5]:
            continue
        raw = names[row[0] : names.find(b"\0", row[0])] if row[0] < len(names) else b""
        name = raw[:64].decode("ascii", "replace")
        data = bool(row[2] & _SHF_ALLOC) and not row[2] & _SHF_EXECUTABLE and name not in _NEVER_IMAGES
        if row[4] + row[5] > reader.size:
            raise MalformedError(f"section {name!r} ends past the end of the file")
        found.append(Section(name, row[4], row[5], data))
    return tuple(found)


def data_ranges(reader: Reader) -> tuple[tuple[int, int], ...]:
    """Where in a file something else than code may lie, known from its start alone.

    An executable segment that does not begin with the file holds code only: linkers that put read-only data beside
    the code begin that segment at offset 0.
    """
    header = Header(reader.read_at(0, HEADER_BYTES))
    table = reader.read_at(header.segments_at, header.segments * _SEGMENT.size)
    ranges: list[tuple[int, int]] = []
    at = 0
    for row in sorted(
        _SEGMENT.iter_unpack(table[: len(table) // _SEGMENT.size * _SEGMENT.size]), key=lambda one: one[2]
    ):
        if row[0] == _PT_LOAD and row[1] & _PF_EXECUTABLE and row[2] >= max(at, HEADER_BYTES):
            ranges.append((at, row[2]))
            at = min(reader.size, row[2] + row[5])
    return (*ranges, (at, reader.size))


def _segments(reader: Reader, header: Header) -> tuple[Section, ...]:
    table = reader.read_at(header.segments_at, header.segments * _SEGMENT.size)
    if len(table) < header.segments * _SEGMENT.size:
        raise MalformedError("the segment table lies outside the file")
    found: list[Section] = []
    for index, row in enumerate(_SEGMENT.iter_unpack(table)):
        size = min(row[5], reader.size - row[2])
        if row[0] == _PT_LOAD and not row[1] & _PF_EXECUTABLE and size > 0:
            found.append(Section(f"(segment {index})", row[2], size, data=True))
    return tuple(found)
