"""Going through a range of a file from front to back: containers, raw cubins, zstd frames.

Work is bounded by the size of the range: whatever parses is passed over whole, and what starts like an image but
does not parse is paid from a budget, so that a file made of broken beginnings ends the search and not the patience.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ongpu.scan.cubin import Cubin, read_cubin
from ongpu.scan.fatbin import CONTAINER_START, Container, Image, read_container
from ongpu.scan.reader import MalformedError, Reader

_CHUNK_BYTES: Final = 256 << 10
_FIRST_CHUNK_BYTES: Final = 8 << 10
_OVERLAP_BYTES: Final = 16
_MAX_WASTED_PEEKS: Final = 200_000
_MAX_FRAME_BLOCKS: Final = 1 << 16

_CONTAINER, _CUBIN, _FRAME, _TEXT = 0, 1, 2, 3
# A literal pattern in `re` runs about half as fast again as bytes.find on executables (measured, CPython 3.11).
_CONTAINER_PATTERN: Final = re.compile(re.escape(CONTAINER_START), re.DOTALL)
_CUBIN_PATTERN: Final = re.compile(rb"\x7fELF\x02\x01\x01[\x33\x41]", re.DOTALL)
_TEXT_PATTERN: Final = re.compile(rb"\.target sm_", re.DOTALL)
_TEXT_TARGET: Final = re.compile(rb"\.version\s+(\d{1,2})\.(\d{1,2})\s[\s\S]{0,64}?\.target sm_(\d{2,3})([af]?)[\s,]")
_TEXT_BEFORE_BYTES: Final = 128
_TEXT_AFTER_BYTES: Final = 16
_FRAME_PATTERN: Final = re.compile(rb"\x28\xb5\x2f\xfd", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One whole zstd frame, by its block headers."""

    offset: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Something that starts like a container and is none."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A PTX module as plain text: a program's own string, perhaps a template, which nothing marks as code."""

    offset: int
    end: int
    image: Image


Found = Container | Cubin | Frame | Text | Broken


class Look(enum.Flag):
    """What to look for in a range, besides containers."""

    CONTAINERS = 0
    CUBINS = enum.auto()
    TEXTS = enum.auto()
    FRAMES = enum.auto()
    FRAMES_AFTER_CODE = enum.auto()
    """Frames from the first container on: where there is no CUDA code, zstd data is nobody's kernel."""


class _Window:
    """The piece of the file at hand, and the next hit of each pattern in it."""

    def __init__(self, reader: Reader, end: int, patterns: tuple[tuple[int, re.Pattern[bytes]], ...]) -> None:
        self._reader = reader
        self._end = end
        self._patterns = patterns
        self._data = b""
        self._start = 0
        self._hits: dict[int, int | None] = {}
        self._chunk_bytes = _FIRST_CHUNK_BYTES
        self.peeks = 0

    def add(self, kind: int, pattern: re.Pattern[bytes]) -> None:
        """Look for one more pattern from now on."""
        self._patterns = (*self._patterns, (kind, pattern))

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes by offset, from the piece at hand where it reaches."""
        self.peeks += 1
        at = offset - self._start
        if at >= 0 and at + size <= len(self._data):
            return self._data[at : at + size]
        return self._reader.read_at(offset, size)

    def find(self, offset: int) -> tuple[int, int] | None:
        """The next hit at or after ``offset``: its pattern and place; ``None`` at the end of the range."""
        while offset < self._end:
            stop = self._start + len(self._data)
            if not self._start <= offset < stop:
                self._load(offset)
                stop = self._start + len(self._data)
                if not self._data:
                    return None
            nearest: tuple[int, int] | None = None
            for kind, pattern in self._patterns:
                place = self._next(kind, pattern, offset)
                if place is not None and (nearest is None or place < nearest[1]):
                    nearest = (kind, place)
            if nearest is not None:
                self._chunk_bytes = _FIRST_CHUNK_BYTES
                return nearest
            self._chunk_bytes = min(_CHUNK_BYTES, self._chunk_bytes * 8)
            if stop >= self._end:
                return None
            self._load(max(offset, stop - _OVERLAP_BYTES))
            if self._start + len(self._data) <= stop:
                return None
            offset = max(offset, self._start)
        return None

    def _load(self, offset: int) -> None:
        self._data = self._reader.read_at(offset, min(self._chunk_bytes, self._end - offset))
        self._start = offset
        self._hits.clear()

    def _next(self, kind: int, pattern: re.Pattern[bytes], offset: int) -> int | None:
        known = self._hits.get(kind, -1)
        if known is None or known >= offset:
            return known
        found = pattern.search(self._data, offset - self._start)
        place = self._start + found.start() if found else None
        self._hits[kind] = place
        return place


def sweep(reader: Reader, start: int, end: int, *, look: Look = Look.CONTAINERS, alignment: int = 8) -> Iterator[Found]:
    """Everything between ``start`` and ``end``, in order.

    :param alignment: containers start on multiples of it; 8 everywhere but in archives.
    """
    patterns: list[tuple[int, re.Pattern[bytes]]] = [(_CONTAINER, _CONTAINER_PATTERN)]
    if Look.CUBINS in look:
        patterns.append((_CUBIN, _CUBIN_PATTERN))
    if Look.FRAMES in look:
        patterns.append((_FRAME, _FRAME_PATTERN))
    if Look.TEXTS in look:
        patterns.append((_TEXT, _TEXT_PATTERN))
    window = _Window(reader, end, tuple(patterns))
    at, wasted = start, 0
    while at < end:
        # Most containers follow the last one at once, or after eight zero bytes.
        near = window.peek(at, 16)
        if near.startswith(CONTAINER_START) and at % alignment == 0:
            hit: tuple[int, int] | None = (_CONTAINER, at)
        elif near[8:] == CONTAINER_START and (at + 8) % alignment == 0 and not any(near[:8]):
            hit = (_CONTAINER, at + 8)
        else:
            hit = window.find(at)
        if hit is None:
            return
        kind, place = hit
        before = window.peeks
        try:
            found = _read(window, kind, place, end, alignment)
        except MalformedError as error:
            wasted += window.peeks - before
            if wasted > _MAX_WASTED_PEEKS:
                yield Broken(offset=place, reason="too many beginnings of images that are none: the search ends here")
                return
            if kind == _CONTAINER and place % alignment == 0:
                yield Broken(offset=place, reason=str(error))
            at = place + 1
            continue
        yield found
        at = found.end
        if Look.FRAMES_AFTER_CODE in look and isinstance(found, Container):
            look &= ~Look.FRAMES_AFTER_CODE
            window.add(_FRAME, _FRAME_PATTERN)


def _read(window: _Window, kind: int, place: int, end: int, alignment: int) -> Container | Cubin | Frame | Text:
    if kind == _CONTAINER:
        if place % alignment:
            raise MalformedError("unaligned")
        return read_container(window.peek, place, end)
    if kind == _CUBIN:
        return read_cubin(window.peek, place, end)
    if kind == _TEXT:
        return _read_text(window, place)
    return _read_frame(window, place, end)


def _read_text(window: _Window, place: int) -> Text:
    before = min(_TEXT_BEFORE_BYTES, place)
    around = window.peek(place - before, before + len(b".target sm_") + _TEXT_AFTER_BYTES)
    found = [match for match in _TEXT_TARGET.finditer(around) if match.start() < before < match.end()]
    if not found:
        raise MalformedError("no PTX module")
    last = found[-1]
    image = Image("compute", int(last[3]), last[4].decode(), (int(last[1]), int(last[2])))
    return Text(offset=place, end=place - before + last.end(), image=image)


def _read_frame(window: _Window, offset: int, limit: int) -> Frame:
    """Pass over one zstd frame by its block headers (RFC 8878, section 3.1)."""
    head = window.peek(offset + 4, 1)
    if not head or head[0] & 0x08:
        raise MalformedError("a reserved bit of the frame header is set")
    single = head[0] >> 5 & 1
    content_bytes = (single, 2, 4, 8)[head[0] >> 6]
    at = offset + 5 + (1 - single) + (0, 1, 2, 4)[head[0] & 3] + content_bytes
    for _ in range(_MAX_FRAME_BLOCKS):
        block = window.peek(at, 3)
        if len(block) < 3:
            raise MalformedError("the frame is cut off")
        word = int.from_bytes(block, "little")
        kind, size = word >> 1 & 3, word >> 3
        if kind == 3 or size > 128 << 10:
            raise MalformedError("no zstd block")
        at += 3 + (1 if kind == 1 else size)
        if at > limit:
            raise MalformedError("the frame ends past the range")
        if word & 1:
            return Frame(offset=offset, end=min(limit, at + (4 if head[0] & 4 else 0)))
    raise MalformedError("too many blocks")
