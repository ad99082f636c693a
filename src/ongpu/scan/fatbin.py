"""The fat-binary container, read by its headers alone: payloads are never opened.

Layout (little endian), as read from bytes of some ninety wheels and from files built with nvcc 11.8-13.5:

* container: u32 magic ``0xBA55ED50``, u16 version 1, u16 header size 16, u64 size of what follows;
* entry: u16 kind, u16 version 0x101, u32 header size, u64 padded payload size, u32 compressed size, u32 extra,
  u16 minor, u16 major, u32 architecture number, u32 u32 identifier, u64 flags, u64, u64 plain size;
* a concatenated entry (kind 256) has a table of member headers of the same shape after its own 64 bytes.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ongpu.scan.reader import MalformedError

CONTAINER_START: Final = b"\x50\xed\x55\xba\x01\x00\x10\x00"
CONTAINER_HEADER_BYTES: Final = 16
ENTRY_HEADER_BYTES: Final = 64
_MAX_HEADER_BYTES: Final = 1 << 20
_ENTRY_VERSION: Final = 0x101
_KIND_PTX, _KIND_ELF, _KIND_LTO, _KIND_RELOCATABLE_PTX, _KIND_TILE, _KIND_CONCATENATED = 1, 2, 8, 64, 128, 256
_FLAG_ARCH_SPECIFIC: Final = 1 << 20
_FLAG_FAMILY: Final = 1 << 21

_SIZE = struct.Struct("<Q")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_PAIR = struct.Struct("<II")

# A cubin without a kernel is small: at most 1,112 bytes from CUDA 12.x, 2,568 seen from 13.x; the smallest cubin
# with a kernel has 1,864 (sm_50), 2,344 (12.x, sm_70 and up), 2,856 (13.x) or 4,840 (sm_100 and up).
_EMPTY_OLD_BYTES: Final = 1800
_EMPTY_NEW_BYTES: Final = 2600
_NEW_ABI_MINOR: Final = 8
# PTX of a translation unit without kernels is its header alone: 180-260 bytes from nvcc 11.8, 12.9 and 13.0.
_EMPTY_PTX_BYTES: Final = 320

Peek = Callable[[int, int], bytes]


class Image(NamedTuple):
    """One image by its header. ``kind`` is ``sm``, ``compute``, ``lto``, or a name no device code has here."""

    kind: str
    number: int
    suffix: str
    isa: tuple[int, int] | None = None
    empty: bool = False
    relocatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container: where it lies and which images it holds, counted."""

    offset: int
    end: int
    images: Counter[Image]
    problems: tuple[str, ...] = ()


def read_container(peek: Peek, offset: int, limit: int) -> Container:
    """Read the container that starts at ``offset``.

    :param peek: ``peek(offset, size)``, returning fewer bytes only at the end.
    :param limit: the container must end at or before this offset.
    :raises MalformedError: when a header contradicts itself or the walk does not end on the container's end.
    """
    head = peek(offset, CONTAINER_HEADER_BYTES)
    if len(head) < CONTAINER_HEADER_BYTES or not head.startswith(CONTAINER_START):
        raise MalformedError(f"no container at {offset:#x}")
    end = offset + CONTAINER_HEADER_BYTES + _SIZE.unpack_from(head, 8)[0]
    if end > limit:
        raise MalformedError(f"the container at {offset:#x} ends at {end:#x}, past {limit:#x}")
    at = offset + CONTAINER_HEADER_BYTES
    images: Counter[Image] = Counter()
    problems: list[str] = []
    while at < end:
        header = peek(at, ENTRY_HEADER_BYTES)
        if len(header) < ENTRY_HEADER_BYTES:
            raise MalformedError(f"the entry at {at:#x} is cut off")
        fields = _ENTRY.unpack(header)
        kind, version, header_bytes, payload_bytes = fields[:4]
        after = at + header_bytes + payload_bytes
        if version != _ENTRY_VERSION or not ENTRY_HEADER_BYTES <= header_bytes <= _MAX_HEADER_BYTES or after > end:
            raise MalformedError(f"the entry at {at:#x} has an impossible header")
        if kind == _KIND_CONCATENATED:
            table = peek(at + ENTRY_HEADER_BYTES, header_bytes - ENTRY_HEADER_BYTES)
            try:
                images.update(_members(table))
            except MalformedError as error:
                problems.append(f"concatenated entry at {at:#x}: {error}")
        else:
            images[_image(fields, payload_bytes)] += 1
        at = after
    if at != end:
        raise MalformedError(f"the container at {offset:#x} does not end with its last entry")
    return Container(offset=offset, end=end, images=images, problems=tuple(problems))


def _image(fields: tuple[int, ...], payload_bytes: int) -> Image:
    kind, minor, major, number, flags, plain_bytes = fields[0], fields[6], fields[7], fields[8], fields[11], fields[13]
    suffix = "a" if flags & _FLAG_ARCH_SPECIFIC else "f" if flags & _FLAG_FAMILY else ""
    size = plain_bytes or payload_bytes
    if kind == _KIND_ELF:
        bound = _EMPTY_NEW_BYTES if minor >= _NEW_ABI_MINOR else _EMPTY_OLD_BYTES
        return Image("sm", number, suffix, None, size <= bound)
    if kind in (_KIND_PTX, _KIND_RELOCATABLE_PTX):
        empty = size <= _EMPTY_PTX_BYTES
        return Image("compute", number, suffix, (major, minor), empty, kind == _KIND_RELOCATABLE_PTX)
    if kind == _KIND_LTO:
        return Image("lto", number, suffix)
    if kind == _KIND_TILE:
        return Image("tile-ir", number, suffix)
    return Image(f"kind-{kind}", number, suffix)


def _members(table: bytes) -> Counter[Image]:
    """Read the member headers of a concatenated entry; their own length is not stored and follows from the strings."""
    if len(table) < _PAIR.size:
        raise MalformedError("its table is cut off")
    count, table_bytes = _PAIR.unpack_from(table)
    if table_bytes > len(table):
        raise MalformedError("its table is longer than its header")
    images: Counter[Image] = Counter()
    at = _PAIR.size
    for _ in range(count):
        if at + ENTRY_HEADER_BYTES > table_bytes:
            raise MalformedError("it has fewer members than it counts")
        fields = _ENTRY.unpack_from(table, at)
        # +4 is the offset of the member in the plain payload, +8 its plain size.
        images[_image((*fields[:13], 0), fields[3])] += 1
        length = ENTRY_HEADER_BYTES
        extra_at, identifier_at, identifier_bytes = fields[5], fields[9], fields[10]
        if identifier_at:
            length = max(length, _up8(identifier_at + identifier_bytes + 1))
        if extra_at:
            if at + extra_at + _PAIR.size > table_bytes:
                raise MalformedError("a member's record lies outside its table")
            text_at, text_bytes = _PAIR.unpack_from(table, at + extra_at)
            length = max(length, _up8(text_at + text_bytes + 1))
        at += length
    return images


def _up8(number: int) -> int:
    return (number + 7) & ~7
