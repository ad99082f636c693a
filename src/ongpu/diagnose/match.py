"""A log and the rules -> signals: which rule fired, how often, on which lines.

The speed comes from what logs are: millions of lines, few kinds, few words. A line's *kind* is the line in lower
case with every digit made ``0`` and every address the same; each kind is looked at once. Of a kind only the words
count that could be part of a literal (:mod:`ongpu.diagnose.words`), so that kinds that differ in names and random
text are one. Only lines of a kind that a rule could match are read again.

A log made of nothing but new kinds would still take minutes. So the kinds looked at are counted: past
:data:`KINDS_LOOKED_AT`, a line of a new kind is put aside, the last :data:`LINES_PUT_ASIDE` of them are looked at in
the end, and the others are counted as unread. Tables are of bounded size; no expression here can backtrack.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from ongpu.catalog.causes import ANY_CODE, LARGE_CODE, NUMBER, Rule, as_pattern, is_plain
from ongpu.diagnose.facts import FACT_LITERALS, FactReader
from ongpu.diagnose.text import Block, blocks, clean, shown
from ongpu.diagnose.words import SHORTEST_ANCHOR, WordTable

_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))
_KIND: Final = bytes.maketrans(bytes(range(65, 91)) + b"123456789", bytes(range(97, 123)) + b"0" * 9)
_ADDRESS: Final = re.compile(rb"0x(?!c0000)[0-9a-f]{5,16}")
# Fewer addresses in a block are not worth the pass over it.
_ADDRESSES_IN_A_BLOCK: Final = 200
_KINDS_KEPT: Final = 100_000
KINDS_LOOKED_AT: Final = 10_000
_FEW_KINDS: Final = 500
_BLOCKS_TO_ANOTHER_TRY: Final = 16
LINES_PUT_ASIDE: Final = 6_000
# What is kept of the end of a log: so many lines, so much of each.
_TAIL_LINES: Final = 200
_TAIL_BYTES: Final = 4_000
_FIRST_KEPT: Final = 40
_LAST_KEPT: Final = 400
# Lines of one kind say the same facts; so many of each are read.
_FACT_LINES_A_KIND: Final = 64
_FACT_LINES: Final = 8_000


@dataclass(frozen=True, slots=True)
class Hit:
    """One line on which a rule fired; ``raw`` still has its terminal escapes."""

    line: int
    raw: bytes

    def shown(self, *, limit: int = 400) -> str:
        """The line for people."""
        return shown(clean(self.raw), limit=limit)


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


_Exact = tuple[tuple[bytes, ...], tuple[re.Pattern[bytes], ...]]


def _exact(group: Sequence[str], codes: tuple[int, ...]) -> _Exact:
    """An alternative as it is looked for in a line: plain literals, and literals with one of the rule's numbers."""
    plain = tuple(literal.encode() for literal in group if is_plain(literal))
    numbered = tuple(re.compile(as_pattern(literal, codes).encode()) for literal in group if not is_plain(literal))
    return plain, numbered


@dataclass(frozen=True, slots=True)
class _Group:
    """What lines of one kind must hold for some alternatives of rules (``None``: of the facts).

    ``literals`` are as they look in a kind, ``anchor`` is the piece of them that the fewest groups have in common,
    ``others`` are the literals less the one that is the anchor itself. ``doubtful`` are the rules of which the line
    itself must be asked, and for what, since a digit, which a kind does not show, decides.
    """

    anchor: bytes
    others: tuple[bytes, ...]
    rules: tuple[str, ...]
    doubtful: tuple[tuple[str, _Exact], ...]
    facts: bool


def _kind_literal(literal: str) -> bytes:
    """A literal as it looks in a kind: digits are ``0``, and one side of a number of any length is left out."""
    for mark in (ANY_CODE, LARGE_CODE, NUMBER):
        before, found, after = literal.partition(mark)
        if found:
            literal = max(before + "0", "0" + after, key=len)
    return literal.encode().translate(_KIND)


def _groups(rules: Sequence[Rule]) -> Iterator[_Group]:
    """The alternatives of all rules, those that look alike in a kind put together."""
    alike: dict[tuple[bytes, ...], tuple[list[str], list[tuple[str, _Exact]]]] = {}
    for rule in rules:
        for alternative in rule.match:
            literals = tuple(sorted(map(_kind_literal, alternative)))
            certain, doubtful = alike.setdefault(literals, ([], []))
            if any(b"0" in literal for literal in literals):
                doubtful.append((rule.id, _exact(alternative, rule.codes)))
            else:
                certain.append(rule.id)
    facts = {(_kind_literal(literal),) for (literal,) in FACT_LITERALS}
    for looks in facts:
        alike.setdefault(looks, ([], []))
    pieces = {literals: [piece for literal in literals for piece in literal.split()] for literals in alike}
    common = Counter(piece for found in pieces.values() for piece in set(found))
    for literals, (certain, doubtful) in alike.items():
        anchor = min(pieces[literals], key=lambda piece: (len(piece) < SHORTEST_ANCHOR, common[piece], -len(piece)))
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
    doubtful: list[tuple[Signal, tuple[_Exact, ...]]]
    fact_lines: int


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything the rules saw in a log, by rule id, and the facts read on the way.

    ``unread_lines`` counts the lines that were too many of new kinds to be looked at. ``tail`` is the end of the log.
    """

    fired: dict[str, Signal]
    facts: FactReader
    lines: int
    unread_lines: int
    tail: tuple[Hit, ...]


class RuleIndex:
    """Rules made ready to be matched: made once, used for any number of logs.

    :param hypothetical: a line with one of these literals is no hit of a rule that has a cause.
    """

    def __init__(self, rules: Sequence[Rule], hypothetical: Sequence[str] = ()) -> None:
        self.rules = tuple(rules)
        self.hypothetical = tuple(map(_kind_literal, hypothetical))
        self.contexts = frozenset(rule.id for rule in rules if rule.cause is None)
        self.kind_none = {rule.id: tuple(map(_kind_literal, rule.none)) for rule in rules}
        self.none = {rule.id: tuple(literal.encode() for literal in rule.none) for rule in rules}
        self.by_anchor: dict[bytes, list[_Group]] = {}
        for group in _groups(rules):
            self.by_anchor.setdefault(group.anchor, []).append(group)
        literals = {literal for rule in rules for group in rule.match for literal in map(_kind_literal, group)}
        literals.update(_kind_literal(literal) for (literal,) in FACT_LITERALS)
        literals.update(literal for found in self.kind_none.values() for literal in found)
        literals.update(self.hypothetical)
        self.literals = frozenset(literals)


def scan(data: bytes | Iterable[bytes], index: RuleIndex) -> Signals:
    """Match every rule against every line. Memory stays bounded whatever the size of the log."""
    matcher = _Matcher(index)
    lines = 0
    ends: deque[Block] = deque(maxlen=2)
    for block in blocks(data):
        matcher.read(block)
        lines = block.last_line
        ends.append(block)
    matcher.finish()
    fired = {name: signal for name, signal in matcher.signals.items() if signal.count}
    return Signals(fired=fired, facts=matcher.facts, lines=lines, unread_lines=matcher.unread_lines, tail=_tail(ends))


def _tail(ends: Iterable[Block]) -> tuple[Hit, ...]:
    """The last lines that say anything, with their numbers."""
    tail: list[Hit] = []
    for block in ends:
        numbered = zip(block.line_numbers()[-_TAIL_LINES:], block.pieces[-_TAIL_LINES:], strict=True)
        tail += [Hit(line, raw[:_TAIL_BYTES]) for line, raw in numbered if raw.strip()]
    return tuple(tail[-_TAIL_LINES:])


# An alternative of which the kind itself showed that it holds.
_ANY_LINE: Final[_Exact] = ((), ())


class _Matcher:
    def __init__(self, index: RuleIndex) -> None:
        self._index = index
        self.signals = {rule.id: Signal(rule=rule) for rule in index.rules}
        self.facts = FactReader()
        self._words = WordTable(index.literals, anchors=set(index.by_anchor))
        self._kinds: dict[bytes, _Wanted | None] = {}
        self._reduced: dict[bytes, _Wanted | None] = {}
        self._looked_at = 0
        self._fact_lines_left = _FACT_LINES
        self._blocks = 0
        self._next_try = _BLOCKS_TO_ANOTHER_TRY
        self._reducing = True
        # The last blocks with lines put aside: line numbers, pieces, and which of them.
        self._aside: deque[tuple[list[int], list[bytes], list[int]]] = deque()
        self._held = 0
        self._put_aside = 0
        self.unread_lines = 0

    def read(self, block: Block) -> None:
        together = b"\n".join(block.pieces).translate(_KIND)
        if together.count(b"0x") > _ADDRESSES_IN_A_BLOCK:
            together = _ADDRESS.sub(b"0x0", together)
        kinds = together.split(b"\n")
        # In their order: which of too many kinds are looked at must not depend on how Python hashes.
        unique = dict.fromkeys(kinds)
        self._blocks += 1
        if self._blocks == self._next_try:
            # A log that went on like this is likely to go on: the tries become rarer.
            self._reducing = True
            self._next_try *= 2
        aside = self._new_kinds(unique)
        wanted = {kind: todo for kind in unique.keys() & self._kinds.keys() if (todo := self._kinds[kind])}
        numbers = block.line_numbers() if wanted or aside else []
        pieces = block.pieces
        if wanted:
            for index in [index for index, kind in enumerate(kinds) if kind in wanted]:
                self._take(wanted[kinds[index]], numbers[index], pieces[index])
        if aside:
            indexes = [index for index, kind in enumerate(kinds) if kind in aside]
            self._put_aside += len(indexes)
            # Only the last lines are ever looked at; of the blocks before them, none is worth a tuple a line.
            while len(self._aside) > 1 and self._held - len(self._aside[0][2]) >= LINES_PUT_ASIDE:
                self._held -= len(self._aside.popleft()[2])
            self._aside.append((numbers, pieces, indexes))
            self._held += len(indexes)

    def _new_kinds(self, unique: dict[bytes, None]) -> Set[bytes]:
        """Note what the lines of new kinds are wanted for. Returns the kinds that are too many to be looked at."""
        if not self._reducing:
            return unique.keys() - self._kinds.keys()
        fresh = [kind for kind in unique if kind not in self._kinds]
        if len(self._kinds) + len(fresh) > _KINDS_KEPT:
            self._kinds.clear()
            fresh = list(unique)
        # Once there were too many kinds, a few of a block show whether the others are worth reducing.
        tried = fresh[:_FEW_KINDS] if self._put_aside else fresh
        aside = self._classify(tried)
        self._reducing = len(aside) < len(tried) // 2 or len(tried) < _FEW_KINDS
        if not self._reducing:
            return unique.keys() - self._kinds.keys()
        return aside | self._classify(fresh[len(tried) :])

    def finish(self) -> None:
        """Look at the last of the lines that were put aside."""
        lines = [(numbers[index], pieces[index]) for numbers, pieces, found in self._aside for index in found]
        lines = lines[-LINES_PUT_ASIDE:]
        self.unread_lines = self._put_aside - len(lines)
        kinds = [raw.translate(_KIND) for _, raw in lines]
        self._looked_at = 0
        self._fact_lines_left = _FACT_LINES
        self._kinds.clear()
        self._classify(list(dict.fromkeys(kinds)))
        for (line, raw), kind in zip(lines, kinds, strict=True):
            wanted = self._kinds[kind]
            if wanted:
                self._take(wanted, line, raw)

    def _take(self, wanted: _Wanted, line: int, raw: bytes) -> None:
        for signal in wanted.certain:
            signal.add(line, raw)
        if wanted.doubtful:
            lowered = clean(raw).translate(_LOWER)
            for signal, alternatives in wanted.doubtful:
                if self._matches(signal.rule, lowered, alternatives):
                    signal.add(line, raw)
        if wanted.fact_lines and self._fact_lines_left:
            wanted.fact_lines -= 1
            self._fact_lines_left -= 1
            self.facts.read(clean(raw))

    def _matches(self, rule: Rule, lowered: bytes, alternatives: tuple[_Exact, ...]) -> bool:
        if any(literal in lowered for literal in self._index.none[rule.id]):
            return False
        return any(
            all(one in lowered for one in plain) and all(one.search(lowered) for one in numbered)
            for plain, numbered in alternatives
        )

    def _classify(self, fresh: list[bytes]) -> set[bytes]:
        """Note for each new kind what its lines are wanted for. Returns those that are one kind too many."""
        together = b"\n".join(fresh)
        marked = b"\x1b" in together or b"\x01" in together
        bare = {kind: clean(kind) for kind in fresh} if marked else dict.fromkeys(fresh)
        self._words.learn(b" ".join(filter(None, bare.values())) if marked else together)
        if self._words.none_anchored:
            self._kinds.update(dict.fromkeys(fresh))
            return set()
        aside = set()
        for kind, cleaned in bare.items():
            text = self._words.reduce(cleaned if cleaned is not None else kind)
            if text is None:
                self._kinds[kind] = None
            elif text in self._reduced:
                self._kinds[kind] = self._reduced[text]
            elif self._looked_at < KINDS_LOOKED_AT:
                self._looked_at += 1
                self._kinds[kind] = self._reduced[text] = self._wanted(text)
            else:
                aside.add(kind)
        return aside

    def _wanted(self, text: bytes) -> _Wanted | None:
        certain: set[str] = set()
        doubtful: dict[str, list[_Exact]] = {}
        facts = False
        for group in self._groups_in(text, self._words.anchors_of(text)):
            facts = facts or group.facts
            for name in group.rules:
                against = self._index.kind_none[name]
                if against:
                    against = tuple(literal for literal in against if literal in text)
                if any(b"0" in literal for literal in against):
                    doubtful.setdefault(name, []).append(_ANY_LINE)
                elif not against:
                    certain.add(name)
            for name, exact in group.doubtful:
                doubtful.setdefault(name, []).append(exact)
        if any(literal in text for literal in self._index.hypothetical):
            certain &= self._index.contexts
            doubtful = {name: exact for name, exact in doubtful.items() if name in self._index.contexts}
        if not (certain or doubtful or facts):
            return None
        return _Wanted(
            certain=[self.signals[name] for name in certain],
            doubtful=[(self.signals[name], tuple(exact)) for name, exact in doubtful.items() if name not in certain],
            fact_lines=_FACT_LINES_A_KIND if facts else 0,
        )

    def _groups_in(self, text: bytes, anchors: set[bytes]) -> list[_Group]:
        """The alternatives whose every literal is in the kind. The innermost loop of hostile logs: kept bare."""
        found: list[_Group] = []
        by_anchor = self._index.by_anchor
        for anchor in anchors:
            for group in by_anchor[anchor]:
                for literal in group.others:
                    if literal not in text:
                        break
                else:
                    found.append(group)
        return found
