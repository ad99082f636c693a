"""What an ELF file asks of the loader: which libraries and symbols, and where it wants them looked for."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ongpu.scan.elf import HEADER_BYTES, Header
from ongpu.scan.reader import MalformedError, Reader

_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
_MAX_SEGMENTS: Final = 4096
_MAX_DYNAMIC_BYTES: Final = 1 << 20
_MAX_STRINGS_BYTES: Final = 64 << 20
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_DYNSYM: Final = 11
_MAX_SYMBOLS_BYTES: Final = 64 << 20
_STB_LOCAL, _STB_WEAK = 0, 2


class Dynamic(NamedTuple):
    """The dynamic section. ``rpath`` and ``runpath`` are folders as written, ``$ORIGIN`` and all."""

    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()


def read_dynamic(reader: Reader) -> Dynamic:
    """The dynamic section of an ELF file; empty where it has none. Raises :class:`MalformedError`."""
    header = Header(reader.read_at(0, HEADER_BYTES))
    if header.segments > _MAX_SEGMENTS:
        raise MalformedError(f"a segment table of {header.segments} rows")
    table = reader.read_at(header.segments_at, header.segments * _SEGMENT.size)
    rows = list(_SEGMENT.iter_unpack(table[: len(table) // _SEGMENT.size * _SEGMENT.size]))
    dynamic = next((row for row in rows if row[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return Dynamic()
    data = reader.read_at(dynamic[2], min(dynamic[5], _MAX_DYNAMIC_BYTES))
    entries = list(_ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]))
    last = next((index for index, entry in enumerate(entries) if entry[0] == 0), len(entries))
    entries = entries[:last]
    values = dict(entries)
    address, size = values.get(_DT_STRTAB, 0), min(values.get(_DT_STRSZ, 0), _MAX_STRINGS_BYTES)
    load = next((row for row in rows if row[0] == _PT_LOAD and row[3] <= address < row[3] + row[5]), None)
    if load is None:
        raise MalformedError("the dynamic strings lie outside the file")
    strings = reader.read_at(address - load[3] + load[2], size)

    def texts(tag: int) -> list[str]:
        return [strings[at : strings.find(b"\0", at)].decode("utf-8", "replace") for kind, at in entries if kind == tag]

    return Dynamic(
        needed=tuple(texts(_DT_NEEDED)),
        rpath=tuple(one for text in texts(_DT_RPATH) for one in text.split(":") if one),
        runpath=tuple(one for text in texts(_DT_RUNPATH) for one in text.split(":") if one),
    )


class Symbols(NamedTuple):
    """The names of the dynamic symbols: what a file gives, and what it must be given (weak ones need not)."""

    defined: frozenset[str] = frozenset()
    undefined: frozenset[str] = frozenset()


def read_symbols(reader: Reader) -> Symbols | None:
    """The dynamic symbols of an ELF file; ``None`` where its section table does not tell them.

    Raises :class:`MalformedError`.
    """
    header = Header(reader.read_at(0, HEADER_BYTES))
    table = reader.read_at(header.table_at, header.sections * _SECTION.size) if header.table_at else b""
    sections = list(_SECTION.iter_unpack(table[: len(table) // _SECTION.size * _SECTION.size]))
    row = next((one for one in sections if one[1] == _SHT_DYNSYM), None)
    if row is None or row[6] >= len(sections) or row[5] > _MAX_SYMBOLS_BYTES:
        return None
    data = reader.read_at(row[4], row[5])
    strings = reader.read_at(sections[row[6]][4], min(sections[row[6]][5], _MAX_STRINGS_BYTES))
    defined: set[str] = set()
    undefined: set[str] = set()
    for name_at, info, _, section, _, _ in _SYMBOL.iter_unpack(data[: len(data) // _SYMBOL.size * _SYMBOL.size]):
        binding = info >> 4
        if binding == _STB_LOCAL or (not section and binding == _STB_WEAK):
            continue
        name = strings[name_at : strings.find(b"\0", name_at)].decode("ascii", "replace")
        (defined if section else undefined).add(name)
    return Symbols(frozenset(defined), frozenset(undefined))
