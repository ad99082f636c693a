"""A log and the rules -> signals: which rule fired, how often, on which lines.

The speed comes from what logs are: millions of lines, few kinds. A line's *kind* is the line in lower case with
every digit made ``0``; each kind is looked at once, and only lines of a kind that a rule could match are read
again. The kinds are kept in a table of bounded size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ongpu.catalog.causes import Rule
from ongpu.diagnose.facts import FACT_LITERALS, FactReader
from ongpu.diagnose.text import blocks, clean, shown

_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_KIND: Final = bytes.maketrans(bytes(range(65, 91)) + b"123456789", bytes(range(97, 123)) + b"0" * 9)
_KINDS_KEPT: Final = 100_000
_FIRST_KEPT: Final = 40
_LAST_KEPT: Final = 400


@dataclass(frozen=True, slots=True)
class Hit:
    """One line on which a rule fired."""

    line: int
    text: bytes

    def shown(self) -> str:
        """The line for people."""
        return shown(self.text)


@dataclass(slots=True)
class Signal:
    """How a rule fired: the count is exact, the hits kept are the first and the last ones."""

    rule: Rule
    count: int = 0
    first: list[Hit] = field(default_factory=list)
    last: deque[Hit] = field(default_factory=lambda: deque(maxlen=_LAST_KEPT))

    def add(self, hit: Hit) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < _FIRST_KEPT:
            self.first.append(hit)
        else:
            self.last.append(hit)

    def hits(self) -> list[Hit]:
        """The hits kept, in order."""
        return [*self.first, *self.last]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A rule's literals as bytes, and as they look in a line's kind."""

    rule: Rule | None
    exact: tuple[tuple[bytes, ...], ...]
    kinds: tuple[tuple[bytes, ...], ...]
    none: tuple[bytes, ...]

    @classmethod
    def of(cls, rule: Rule | None, match: Sequence[Sequence[str]], none: Sequence[str]) -> _Pattern:
        exact = tuple(tuple(literal.encode() for literal in group) for group in match)
        return cls(
            rule=rule,
            exact=exact,
            kinds=tuple(tuple(literal.translate(_KIND) for literal in group) for group in exact),
            none=tuple(literal.encode() for literal in none),
        )

    def fits_kind(self, kind: bytes) -> bool:
        return any(all(literal in kind for literal in group) for group in self.kinds)

    def fits(self, lowered: bytes) -> bool:
        if any(literal in lowered for literal in self.none):
            return False
        return any(all(literal in lowered for literal in group) for group in self.exact)


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything the rules saw in a log, by rule id, the facts read on the way, and the number of lines."""

    fired: dict[str, Signal]
    facts: FactReader
    lines: int


def scan(data: bytes | Iterable[bytes], rules: Sequence[Rule]) -> Signals:
    """Match every rule against every line. Memory stays bounded whatever the size of the log."""
    patterns = [_Pattern.of(rule, rule.match, rule.none) for rule in rules]
    patterns.append(_Pattern.of(None, FACT_LITERALS, ()))
    fired: dict[str, Signal] = {}
    facts = FactReader()
    kinds: dict[bytes, tuple[_Pattern, ...]] = {}
    lines = 0
    for block in blocks(data):
        block_kinds = [piece.translate(_KIND) for piece in block.pieces]
        unique = set(block_kinds)
        fresh = unique.difference(kinds)
        if len(kinds) + len(fresh) > _KINDS_KEPT:
            kinds.clear()
            fresh = unique
        _classify(fresh, patterns, kinds)
        wanted = {kind for kind in unique if kinds[kind]}
        numbers = block.line_numbers() if wanted else []
        for index, kind in enumerate(block_kinds) if wanted else ():
            if kind not in wanted:
                continue
            text = clean(block.pieces[index])
            lowered = text.translate(_LOWER)
            for pattern in kinds[kind]:
                if not pattern.fits(lowered):
                    continue
                if pattern.rule is None:
                    facts.read(text)
                else:
                    signal = fired.setdefault(pattern.rule.id, Signal(rule=pattern.rule))
                    signal.add(Hit(numbers[index], text))
        if block.pieces:
            lines = block.first_line + sum(not piece.startswith(b"\x01") for piece in block.pieces[1:])
    return Signals(fired=fired, facts=facts, lines=lines)


def _classify(fresh: set[bytes], patterns: Sequence[_Pattern], kinds: dict[bytes, tuple[_Pattern, ...]]) -> None:
    """Note for each new kind which patterns could match a line of it."""
    if not fresh:
        return
    together = b"\n".join(fresh)
    if b"\x1b" in together:
        together = clean(together)
    possible = [p for p in patterns if any(all(literal in together for literal in group) for group in p.kinds)]
    for kind in fresh:
        bare = clean(kind)
        kinds[kind] = tuple(pattern for pattern in possible if pattern.fits_kind(bare))
