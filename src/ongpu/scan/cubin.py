"""A raw cubin: an ELF file for the GPU (``e_machine`` 190), read by its header."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ongpu.scan.fatbin import Image, Peek
from ongpu.scan.reader import MalformedError

EM_CUDA: Final = 190
ELF_HEADER_BYTES: Final = 64
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_OLD_ABI: Final = 0x33
_NEW_ABI: Final = 0x41
_ET_REL: Final = 1
_EMPTY_OLD_BYTES: Final = 1800
_EMPTY_NEW_BYTES: Final = 2600
_MAX_SECTIONS: Final = 4096
_NOTE_BYTES: Final = 4096
_MAX_NOTES: Final = 8
_MAX_NAMES_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubin:
    """Where a raw cubin lies and what it was built for."""

    offset: int
    end: int
    image: Image


def read_cubin(peek: Peek, offset: int, limit: int) -> Cubin:
    """Read the cubin whose ELF header starts at ``offset``; it must end at or before ``limit``.

    :raises MalformedError: when it is no cubin, or its header contradicts itself.
    """
    head = peek(offset, ELF_HEADER_BYTES)
    if len(head) < ELF_HEADER_BYTES:
        raise MalformedError(f"the cubin header at {offset:#x} is cut off")
    ident, kind, machine, _, _, _, table_at, flags, header_bytes, _, _, entry_bytes, sections, names = _HEADER.unpack(
        head
    )
    abi = ident[7]
    if not ident.startswith(b"\x7fELF\x02\x01\x01") or machine != EM_CUDA or abi not in (_OLD_ABI, _NEW_ABI):
        raise MalformedError(f"no cubin at {offset:#x}")
    size = table_at + sections * entry_bytes
    if header_bytes != ELF_HEADER_BYTES or entry_bytes != _SECTION.size or not 0 < sections <= _MAX_SECTIONS:
        raise MalformedError(f"the cubin at {offset:#x} has an impossible section table")
    if kind not in (1, 2) or names >= sections or table_at < ELF_HEADER_BYTES or offset + size > limit:
        raise MalformedError(f"the cubin at {offset:#x} ends past {limit:#x}")
    if abi == _OLD_ABI:
        number = flags & 0xFF
        # Bit 11 is set without meaning in an old sm_60 stub of CUPTI; the suffix exists from 9.0 on.
        suffix = "a" if flags & 0x800 and number >= 90 else ""
        empty = size <= _EMPTY_OLD_BYTES
    else:
        number = flags >> 8 & 0xFF
        table = peek(offset + table_at, sections * entry_bytes)
        suffix = _new_suffix(peek, offset, table, names, limit) or ("a" if flags & 0x8 else "")
        empty = size <= _EMPTY_NEW_BYTES
    image = Image("sm", number, suffix, None, empty, kind == _ET_REL)
    return Cubin(offset=offset, end=offset + size, image=image)


def _new_suffix(peek: Peek, offset: int, table: bytes, names: int, limit: int) -> str:
    """The suffix of a cubin of the new ABI: 'a' from ``.nv.compat``, 'f' from the tool's own command line."""
    if len(table) < (names + 1) * _SECTION.size:
        return ""
    rows = list(_SECTION.iter_unpack(table[: len(table) // _SECTION.size * _SECTION.size]))
    names_at, names_bytes = rows[names][4], min(rows[names][5], _MAX_NAMES_BYTES)
    texts = peek(offset + names_at, names_bytes) if offset + names_at < limit else b""
    suffix, looked = "", 0
    for row in rows:
        name = texts[row[0] : texts.find(b"\0", row[0])] if row[0] < len(texts) else b""
        if name not in (b".nv.compat", b".note.nv.tkinfo") or offset + row[4] >= limit:
            continue
        looked += 1
        if looked > _MAX_NOTES:
            break
        data = peek(offset + row[4], min(row[5], _NOTE_BYTES))
        if name == b".nv.compat" and data.startswith(b"\x02\x09\x01"):
            return "a"
        if name == b".note.nv.tkinfo" and b"-arch sm_" in data:
            word = data.split(b"-arch sm_", 1)[1][:5].split(b" ")[0].split(b"\0")[0]
            suffix = "f" if word.endswith(b"f") else suffix
    return suffix
