"""Which words of a line can be part of a literal: a literal is cut at its blanks, a line at its own.

A literal without a blank may stand anywhere inside a word. Of one with blanks, the first piece ends a word, the last
one begins one, and those between are whole words. The rest of a word is of no account, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# A shorter piece is in nearly every line.
SHORTEST_ANCHOR: Final = 3
_WORDS_KEPT: Final = 200_000
# So many pieces in so much of the words are more than can be tried on every word.
_SAMPLE_BYTES: Final = 16_384
_MANY_PIECES: Final = 40
# What stands for a word of no account. No literal has it.
_OTHER: Final = b"\x02"
_BLANKS: Final = bytes.maketrans(b"\t\n\v\f\r", b"     ")


class WordTable:
    """Every word met so far, with the anchors it has in it; bounded."""

    def __init__(self, literals: Iterable[bytes], *, anchors: set[bytes]) -> None:
        self._inside: set[bytes] = set(anchors)
        self._whole: set[bytes] = set()
        self._ends: set[bytes] = set()
        self._begins: set[bytes] = set()
        for literal in literals:
            first, *between = literal.split(b" ")
            if not between:
                self._inside.add(literal)
                continue
            *between, last = between
            self._ends.add(first)
            self._begins.add(last)
            self._whole.update(between)
        self._short = [piece for piece in self._inside if len(piece) < SHORTEST_ANCHOR]
        self._by_start: dict[bytes, list[bytes]] = {}
        for piece in self._inside.difference(self._short):
            self._by_start.setdefault(piece[:SHORTEST_ANCHOR], []).append(piece)
        self._ends.discard(b"")
        self._begins.discard(b"")
        self._end_lengths = sorted({len(piece) for piece in self._ends}, reverse=True)
        self._begin_lengths = sorted({len(piece) for piece in self._begins}, reverse=True)
        self._anchors = anchors
        self._shown: dict[bytes, bytes] = {}
        self._anchored: dict[bytes, tuple[bytes, ...]] = {}
        self.none_anchored = True

    def learn(self, text: bytes) -> None:
        """Get to know the words of a text; ``none_anchored`` then says whether none of them has an anchor."""
        words = set(text.translate(_BLANKS).split(b" "))
        fresh = words.difference(self._shown)
        if len(self._shown) + len(fresh) > _WORDS_KEPT:
            self._shown.clear()
            self._anchored.clear()
            fresh = words
        together = b" ".join(fresh)
        inside = self._inside_of(together)
        for word in fresh:
            if len(word) < SHORTEST_ANCHOR:
                self._shown[word] = word
                continue
            few = len(inside) <= len(word)
            found = [piece for piece in inside if piece in word] if few else self._pieces_of(word)
            shown = word if word in self._whole else self._outline(word, found)
            self._shown[word] = shown
            anchors = tuple(piece for piece in found if piece in self._anchors)
            if anchors:
                self._anchored[word] = self._anchored[shown] = anchors
        self.none_anchored = words.isdisjoint(self._anchored)

    def _inside_of(self, together: bytes) -> list[bytes]:
        """The pieces in these words; all there are where a part of the words shows that they are many."""
        if len(together) > 4 * _SAMPLE_BYTES:
            sample = together[:_SAMPLE_BYTES]
            if sum([piece in sample for piece in self._inside]) > _MANY_PIECES:
                return list(self._inside)
        return [piece for piece in self._inside if piece in together]

    def _pieces_of(self, word: bytes) -> list[bytes]:
        """The pieces inside a word, looked up by how they start: quicker than to try them all on a short word."""
        found = {piece for piece in self._short if piece in word}
        for start in range(len(word) - SHORTEST_ANCHOR + 1):
            for piece in self._by_start.get(word[start : start + SHORTEST_ANCHOR], ()):
                if word.startswith(piece, start):
                    found.add(piece)
        return list(found)

    def _outline(self, word: bytes, inside: list[bytes]) -> bytes:
        """What of the word can be part of a literal: a beginning, an end, and what it has inside."""
        begin = next((word[:size] for size in self._begin_lengths if word[:size] in self._begins), b"")
        end = next((word[-size:] for size in self._end_lengths if word[-size:] in self._ends), b"")
        return _OTHER.join([begin, *sorted(inside), end])

    def reduce(self, kind: bytes) -> bytes | None:
        """The kind with all that is of no account the same; ``None`` where no word has an anchor."""
        words = kind.translate(_BLANKS).split(b" ")
        if self._anchored.keys().isdisjoint(words):
            return None
        shown = self._shown
        return b" ".join([shown[word] for word in words])

    def anchors_of(self, kind: bytes) -> set[bytes]:
        """The anchors that the words of a (reduced) kind have in them."""
        anchored = self._anchored
        return {anchor for word in kind.split(b" ") if word in anchored for anchor in anchored[word]}
