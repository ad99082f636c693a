"""The section table of a PE file (Windows DLL, PYD, EXE), from bytes."""

from __future__ import annotations

import struct
from typing import Final

from ongpu.scan.reader import MalformedError, Reader
from ongpu.scan.sections import Section

_COFF = struct.Struct("<4sHHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_MAX_SECTIONS: Final = 96 * 16
_INITIALIZED, _EXECUTE = 0x40, 0x20000000
_NEVER_IMAGES: Final = frozenset({".reloc", ".pdata", ".idata", ".edata"})


def read_sections(reader: Reader) -> tuple[Section, ...]:
    """The sections of a PE file with bytes in it; names are cut at eight characters. Raises :class:`MalformedError`."""
    head = reader.read_at(0, 64)
    if len(head) < 64 or not head.startswith(b"MZ"):
        raise MalformedError("the DOS header is cut off")
    at = struct.unpack_from("<I", head, 60)[0]
    coff = reader.read_at(at, _COFF.size)
    if len(coff) < _COFF.size or not coff.startswith(b"PE\0\0"):
        raise MalformedError("there is no PE header where the DOS header says")
    row = _COFF.unpack(coff)
    count, optional_bytes = row[2], row[6]
    if count > _MAX_SECTIONS:
        raise MalformedError(f"a section table of {count} rows")
    table = reader.read_at(at + _COFF.size + optional_bytes, count * _SECTION.size)
    if len(table) < count * _SECTION.size:
        raise MalformedError("the section table is cut off")
    found: list[Section] = []
    for row in _SECTION.iter_unpack(table):
        name = row[0].rstrip(b"\0").decode("ascii", "replace")
        # The raw size is rounded up to the file alignment; the virtual size is what was linked.
        size = min(row[3], row[1]) if row[1] else row[3]
        if not size:
            continue
        if row[4] + size > reader.size:
            raise MalformedError(f"section {name!r} ends past the end of the file")
        flags = row[9]
        data = bool(flags & _INITIALIZED) and not flags & _EXECUTE and name not in _NEVER_IMAGES
        found.append(Section(name, row[4], size, data))
    return tuple(found)
