"""The second stage: the cause whose words the end of a log is made of, where no rule knows its lines.

A rule knows an output; a term knows a meaning ("cannot allocate", "is not compatible with"). Each term that occurs in
the end of the log adds its weights to the causes it speaks for, once, by the line in which it weighs most. A cause is
named only with a margin over the next one, and never as more than inferred.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ongpu.catalog.terms import Term, TermCatalog
from ongpu.diagnose.match import Hit
from ongpu.domain.verdict import Cause

_LINES: Final = 60
_LEAST: Final = 1.0
_MARGIN: Final = 1.0
# What a term weighs in a line that does not say that anything failed, and in one that only names a file on the way.
_BESIDE: Final = 0.5
_FRAME: Final = 0.25
_FRAME_MARK: Final = 'file "'
_QUOTE_MARKS: Final = " |│>"
# The level glog and absl give a line: one of I and W is a remark, whatever its words.
_REMARK: Final = re.compile(r"(?:[iw]\d{4} |\d{4}-\d\d-\d\d [\d:.]{8,17}: [iw] )")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A term in the line in which it weighs most."""

    term: Term
    hit: Hit
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Likely:
    """The cause that the words speak for, the terms that do, heaviest first, and the cause that comes next."""

    cause: Cause
    told: tuple[Told, ...]
    next_cause: Cause | None
    next_told: Told | None


@dataclass(frozen=True, slots=True)
class SpeakingLine:
    """A line that says something, in lower case; ``failing``: that something failed."""

    hit: Hit
    lowered: str
    failing: bool

    def weight(self) -> float:
        """How much its words count."""
        if self.lowered.lstrip(_QUOTE_MARKS).startswith(_FRAME_MARK):
            return _FRAME
        return 1.0 if self.failing else _BESIDE


def speaking(tail: Sequence[Hit], catalog: TermCatalog, *, hypothetical: Sequence[str] = ()) -> list[SpeakingLine]:
    """The last lines that say something of their own.

    :param tail: the last lines of the log, in their order.
    :param hypothetical: a line with one of these speaks of what might be, and is left out.
    """
    empty = (*catalog.empty, *hypothetical)
    lines = []
    for hit in tail:
        # a blank before, so that a literal that begins with one can stand at the beginning
        lowered = f" {hit.shown(limit=len(hit.raw)).lower()}"
        if lowered.strip() and not any(word in lowered for word in empty):
            failing = not _REMARK.match(lowered[1:]) and any(word in lowered for word in catalog.failing)
            lines.append(SpeakingLine(hit, lowered, failing))
    return lines[-_LINES:]


def likely(lines: Sequence[SpeakingLine], catalog: TermCatalog) -> Likely | None:
    """What the words of the last lines speak for; ``None`` where they speak for nothing clearly."""
    told = [best for term in catalog.terms if (best := _heaviest(term, lines))]
    points: defaultdict[Cause, float] = defaultdict(float)
    failed = any(line.failing for line in lines)
    for one in told:
        for cause, weight in one.term.speaks_for.items():
            if failed:
                points[cause] += weight * one.weight
            elif cause is Cause.SILENT_CPU:
                # Nothing failed: that is how a run on the CPU looks.
                points[cause] += weight
    ranked = sorted(points.items(), key=lambda item: -item[1])
    if not ranked or ranked[0][1] < _LEAST:
        return None
    if len(ranked) > 1 and ranked[0][1] - ranked[1][1] < _MARGIN:
        return None
    after = ranked[1][0] if len(ranked) > 1 else None
    return Likely(
        cause=ranked[0][0],
        told=_for(ranked[0][0], told),
        next_cause=after,
        next_told=_for(after, told)[0] if after else None,
    )


def _heaviest(term: Term, lines: Sequence[SpeakingLine]) -> Told | None:
    found = [line for line in lines if term.is_in(line.lowered)]
    if not found:
        return None
    # Among equals the one nearest to the end.
    line = max(reversed(found), key=SpeakingLine.weight)
    return Told(term=term, hit=line.hit, weight=line.weight())


def _for(cause: Cause, told: Sequence[Told]) -> tuple[Told, ...]:
    speaking = [one for one in told if cause in one.term.speaks_for]
    return tuple(sorted(speaking, key=lambda one: -one.weight * one.term.speaks_for[cause]))
