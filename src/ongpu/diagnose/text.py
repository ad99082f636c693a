"""Bytes of any log -> blocks of lines, in bounded memory.

What is undone here: UTF-16 as PowerShell redirects it, stray NULs, carriage-return progress bars, lines without
an end. Terminal escapes are left in place and removed line by line where a line matters (:func:`clean`), since
most lines of a large log never do.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 1 << 20
LONGEST_LINE_BYTES: Final = 1 << 16
# A piece that begins with this byte follows a lone carriage return: same line of the file, new text.
_SAME_LINE: Final = b"\x01"
# CSI and OSC sequences and two-byte escapes. Every part is a single class with a bound: nothing to backtrack.
_ESCAPES: Final = re.compile(
    rb"\x1b(?:\[[0-9;:?<=>]{0,64}[ -/]{0,4}[@-~]?|\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)?|[()][A-Z0-9]|.)?"
)
_UTF16_SAMPLE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive pieces of a log: ``pieces`` are lines, or what stands between carriage returns.

    ``first_line`` is the number, from 1, of the line that the first piece is (a part of).
    """

    pieces: list[bytes]
    first_line: int
    has_returns: bool

    @property
    def last_line(self) -> int:
        """The line the block ends in."""
        if not self.has_returns:
            return self.first_line + len(self.pieces) - 1
        return self.first_line - 1 + sum(not piece.startswith(_SAME_LINE) for piece in self.pieces)

    def line_numbers(self) -> list[int]:
        """The line number of every piece."""
        if not self.has_returns:
            return list(range(self.first_line, self.first_line + len(self.pieces)))
        numbers: list[int] = []
        number = self.first_line - 1
        for index, piece in enumerate(self.pieces):
            if index == 0 or not piece.startswith(_SAME_LINE):
                number += 1
            numbers.append(number)
        return numbers


def blocks(data: bytes | Iterable[bytes]) -> Iterator[Block]:
    """Cut a log into blocks of whole lines, about a mebibyte each.

    A line longer than 64 KiB is cut, its number kept.
    """
    rest = b""
    line = 1
    for chunk in _utf8(_rebuffered(data)):
        text = rest + chunk
        cut = text.rfind(b"\n") + 1
        if not cut and len(text) > LONGEST_LINE_BYTES:
            # a line without an end: hand out what is there up to a carriage return or a space, and stay in the line
            cut = max(text.rfind(b"\r"), text.rfind(b" ")) + 1 or len(text)
        rest = text[cut:]
        if cut:
            block, line = _block(text[:cut], line)
            yield block
    if rest:
        yield _block(rest, line)[0]


def _block(text: bytes, line: int) -> tuple[Block, int]:
    if text.endswith(b"\r") or b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    returns = b"\r" in text
    newlines = text.count(b"\n")
    if returns:
        text = text.replace(b"\r", b"\n" + _SAME_LINE)
    pieces = text.split(b"\n")
    if text.endswith(b"\n"):
        pieces.pop()
    return Block(pieces=pieces, first_line=line, has_returns=returns), line + newlines


def _rebuffered(data: bytes | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), BLOCK_BYTES):
            yield data[start : start + BLOCK_BYTES]
        return
    held: list[bytes] = []
    size = 0
    for part in data:
        held.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            joined = b"".join(held)
            for start in range(0, len(joined), BLOCK_BYTES):
                yield joined[start : start + BLOCK_BYTES]
            held, size = [], 0
    yield b"".join(held)


def _utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decode UTF-16 where the first bytes say so, and drop NULs elsewhere (text appended to a UTF-16 file)."""
    first = next(chunks, b"")
    encoding = _utf16_encoding(first[:_UTF16_SAMPLE_BYTES])
    if encoding is None:
        yield first.replace(b"\x00", b"").removeprefix(codecs.BOM_UTF8)
        for chunk in chunks:
            yield chunk.replace(b"\x00", b"")
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    yield decoder.decode(first).lstrip("\ufeff").encode("utf-8", "replace")
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "replace")


def _utf16_encoding(sample: bytes) -> str | None:
    if sample.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if sample.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    odd, even = sample[1::2].count(0), sample[0::2].count(0)
    if len(sample) >= 8 and odd > len(sample) // 4 and odd > 4 * even:
        return "utf-16-le"
    if len(sample) >= 8 and even > len(sample) // 4 and even > 4 * odd:
        return "utf-16-be"
    return None


def clean(piece: bytes) -> bytes:
    """One piece without terminal escapes and the marks of this module."""
    if b"\x1b" in piece:
        piece = _ESCAPES.sub(b"", piece)
    return piece.lstrip(_SAME_LINE)


def shown(piece: bytes, *, limit: int = 400) -> str:
    """A cleaned piece as text for people: control characters gone, blanks around it gone, cut at ``limit``."""
    text = "".join(char if char.isprintable() else " " for char in piece.decode("utf-8", "replace")).strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."
