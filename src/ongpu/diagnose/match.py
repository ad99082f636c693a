"""A log and the rules -> signals: which rule fired, how often, on which lines.

The speed comes from what logs are: millions of lines, few kinds, few words. A line's *kind* is the line in lower
case with every digit made ``0``; each kind is looked at once. Whether a kind can match is asked of its words: every
alternative of a rule has an *anchor*, the longest piece of its literals without a blank, and each distinct word is
looked through for anchors once. Only lines of a kind that a rule could match are read again. The tables of kinds
and words are of bounded size, and nothing here is a regular expression.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ongpu.catalog.causes import ANY_CODE, LARGE_CODE, NUMBER, Rule, as_pattern, is_plain
from ongpu.diagnose.facts import FACT_LITERALS, FactReader
from ongpu.diagnose.text import Block, blocks, clean, shown

_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_KIND: Final = bytes.maketrans(bytes(range(65, 91)) + b"123456789", bytes(range(97, 123)) + b"0" * 9)
_KINDS_KEPT: Final = 100_000
_WORDS_KEPT: Final = 200_000
_SHORTEST_ANCHOR: Final = 3
_FIRST_KEPT: Final = 40
_LAST_KEPT: Final = 400
# Lines of one kind say the same facts; so many of each are read.
_FACT_LINES_A_KIND: Final = 64


@dataclass(frozen=True, slots=True)
class Hit:
    """One line on which a rule fired; ``raw`` still has its terminal escapes."""

    line: int
    raw: bytes

    def shown(self) -> str:
        """The line for people."""
        return shown(clean(self.raw))


@dataclass(slots=True)
class Signal:
    """How a rule fired: the count is exact, the hits kept are the first and the last ones."""

    rule: Rule
    count: int = 0
    first: list[Hit] = field(default_factory=list)
    last: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=_LAST_KEPT))

    def add(self, line: int, raw: bytes) -> None:
        """Count one more."""
        self.count += 1
        if self.count > _FIRST_KEPT:
            self.last.append((line, raw))
        else:
            self.first.append(Hit(line, raw))

    def hits(self) -> list[Hit]:
        """The hits kept, in order."""
        return [*self.first, *(Hit(line, raw) for line, raw in self.last)]


@dataclass(frozen=True, slots=True)
class _Group:
    """What lines of one kind must hold for some alternatives of rules (``None``: of the facts).

    ``literals`` are as they look in a kind, ``anchor`` is the piece of them that the fewest groups have in common,
    ``others`` are the literals less the one that is the anchor itself. ``doubtful`` are the rules of which the line
    itself must be asked, since a digit, which a kind does not show, decides.
    """

    anchor: bytes
    others: tuple[bytes, ...]
    rules: tuple[str, ...]
    doubtful: tuple[str, ...]
    facts: bool


def _kind_literal(literal: str) -> bytes:
    """A literal as it looks in a kind: digits are ``0``, and what follows a number of any length is left out."""
    for mark in (ANY_CODE, LARGE_CODE, NUMBER):
        before, found, _ = literal.partition(mark)
        if found:
            literal = before + "0"
    return literal.encode().translate(_KIND)


def _groups(rules: Sequence[Rule]) -> Iterator[_Group]:
    """The alternatives of all rules, those that look alike in a kind put together."""
    alike: dict[tuple[bytes, ...], tuple[list[str], list[str]]] = {}
    for rule in rules:
        for alternative in rule.match:
            literals = tuple(sorted(map(_kind_literal, alternative)))
            digit = any(b"0" in literal for literal in literals)
            alike.setdefault(literals, ([], []))[digit].append(rule.id)
    facts = {(_kind_literal(literal),) for (literal,) in FACT_LITERALS}
    for looks in facts:
        alike.setdefault(looks, ([], []))
    pieces = {literals: [piece for literal in literals for piece in literal.split()] for literals in alike}
    common = Counter(piece for found in pieces.values() for piece in set(found))
    for literals, (certain, doubtful) in alike.items():
        anchor = min(pieces[literals], key=lambda piece: (len(piece) < _SHORTEST_ANCHOR, common[piece], -len(piece)))
        yield _Group(
            anchor=anchor,
            others=tuple(literal for literal in literals if literal != anchor),
            rules=tuple(certain),
            doubtful=tuple(doubtful),
            facts=literals in facts,
        )


@dataclass(slots=True)
class _Wanted:
    """What to do with the lines of one kind.

    ``certain`` rules match every line of the kind; ``doubtful`` ones have a digit to compare. ``fact_lines`` is
    how many lines may still be read for facts.
    """

    certain: list[Signal]
    doubtful: list[Signal]
    fact_lines: int


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything the rules saw in a log, by rule id, the facts read on the way, and the number of lines."""

    fired: dict[str, Signal]
    facts: FactReader
    lines: int


def scan(data: bytes | Iterable[bytes], rules: Sequence[Rule], hypothetical: Sequence[str] = ()) -> Signals:
    """Match every rule against every line. Memory stays bounded whatever the size of the log.

    :param hypothetical: a line with one of these literals is no hit of a rule that has a cause.
    """
    matcher = _Matcher(rules, hypothetical)
    lines = 0
    for block in blocks(data):
        matcher.read(block)
        lines = block.last_line
    fired = {name: signal for name, signal in matcher.signals.items() if signal.count}
    return Signals(fired=fired, facts=matcher.facts, lines=lines)


_Exact = tuple[tuple[bytes, ...], tuple[re.Pattern[bytes], ...]]


def _exact(group: Sequence[str], codes: tuple[int, ...]) -> _Exact:
    """An alternative as it is looked for in a line: plain literals, and literals with one of the rule's numbers."""
    plain = tuple(literal.encode() for literal in group if is_plain(literal))
    numbered = tuple(re.compile(as_pattern(literal, codes).encode()) for literal in group if not is_plain(literal))
    return plain, numbered


class _Matcher:
    def __init__(self, rules: Sequence[Rule], hypothetical: Sequence[str]) -> None:
        self._hypothetical = tuple(map(_kind_literal, hypothetical))
        self._contexts = frozenset(rule.id for rule in rules if rule.cause is None)
        self.signals = {rule.id: Signal(rule=rule) for rule in rules}
        self.facts = FactReader()
        self._kind_none = {rule.id: tuple(map(_kind_literal, rule.none)) for rule in rules}
        self._none = {rule.id: tuple(literal.encode() for literal in rule.none) for rule in rules}
        self._exact = {rule.id: [_exact(group, rule.codes) for group in rule.match] for rule in rules}
        self._by_anchor: dict[bytes, list[_Group]] = {}
        for group in _groups(rules):
            self._by_anchor.setdefault(group.anchor, []).append(group)
        self._kinds: dict[bytes, _Wanted | None] = {}
        self._plain_words: set[bytes] = set()
        self._words: dict[bytes, tuple[bytes, ...]] = {}

    def read(self, block: Block) -> None:
        kinds = [piece.translate(_KIND) for piece in block.pieces]
        unique = set(kinds)
        fresh = unique.difference(self._kinds)
        if len(self._kinds) + len(fresh) > _KINDS_KEPT:
            self._kinds.clear()
            fresh = unique
        self._classify(fresh)
        wanted = {kind: todo for kind in unique if (todo := self._kinds[kind])}
        if not wanted:
            return
        numbers = block.line_numbers()
        pieces = block.pieces
        for index, kind in enumerate(kinds):
            if kind in wanted:
                self._take(wanted[kind], numbers[index], pieces[index])

    def _take(self, wanted: _Wanted, line: int, raw: bytes) -> None:
        for signal in wanted.certain:
            signal.add(line, raw)
        if wanted.doubtful:
            lowered = clean(raw).translate(_LOWER)
            for signal in wanted.doubtful:
                if self._matches(signal.rule, lowered):
                    signal.add(line, raw)
        if wanted.fact_lines:
            wanted.fact_lines -= 1
            self.facts.read(clean(raw))

    def _matches(self, rule: Rule, lowered: bytes) -> bool:
        if any(literal in lowered for literal in self._none[rule.id]):
            return False
        return any(
            all(one in lowered for one in plain) and all(one.search(lowered) for one in numbered)
            for plain, numbered in self._exact[rule.id]
        )

    def _classify(self, fresh: set[bytes]) -> None:
        """Note for each new kind which rules match its lines, surely or depending on a digit."""
        together = b"\n".join(fresh)
        bare = {kind: clean(kind) for kind in fresh} if b"\x1b" in together or b"\x01" in together else None
        words = set((b"\n".join(bare.values()) if bare else together).split())
        self._look_through(words.difference(self._plain_words, self._words))
        anchored = words.intersection(self._words)
        if not anchored:
            self._kinds.update(dict.fromkeys(fresh))
            return
        for kind in fresh:
            text = bare[kind] if bare else kind
            found = text.split()
            self._kinds[kind] = None if anchored.isdisjoint(found) else self._wanted(text, found)

    def _look_through(self, fresh: set[bytes]) -> None:
        if not fresh:
            return
        if len(self._plain_words) + len(fresh) > _WORDS_KEPT:
            self._plain_words.clear()
        if len(self._words) > _WORDS_KEPT:
            self._words.clear()
            self._kinds.clear()
        together = b" ".join(fresh)
        present = [anchor for anchor in self._by_anchor if anchor in together]
        plain = fresh
        if present:
            held = {word: anchors for word in fresh if (anchors := tuple(a for a in present if a in word))}
            self._words.update(held)
            plain = fresh.difference(held)
        self._plain_words |= plain

    def _wanted(self, text: bytes, words: list[bytes]) -> _Wanted | None:
        certain: dict[str, Signal] = {}
        doubtful: dict[str, Signal] = {}
        facts = False
        for group in self._groups_in(text, {anchor for word in words for anchor in self._words.get(word, ())}):
            facts = facts or group.facts
            for name in group.rules:
                against = [literal for literal in self._kind_none[name] if literal in text]
                if any(b"0" in literal for literal in against):
                    doubtful[name] = self.signals[name]
                elif not against:
                    certain[name] = self.signals[name]
            for name in group.doubtful:
                doubtful[name] = self.signals[name]
        if any(literal in text for literal in self._hypothetical):
            certain = {name: signal for name, signal in certain.items() if name in self._contexts}
            doubtful = {name: signal for name, signal in doubtful.items() if name in self._contexts}
        if not (certain or doubtful or facts):
            return None
        rest = [signal for name, signal in doubtful.items() if name not in certain]
        return _Wanted(certain=list(certain.values()), doubtful=rest, fact_lines=_FACT_LINES_A_KIND if facts else 0)

    def _groups_in(self, text: bytes, anchors: set[bytes]) -> list[_Group]:
        """The alternatives whose every literal is in the kind. The innermost loop of hostile logs: kept bare."""
        found: list[_Group] = []
        for anchor in anchors:
            for group in self._by_anchor[anchor]:
                for literal in group.others:
                    if literal not in text:
                        break
                else:
                    found.append(group)
        return found
