"""The answers where no rule names a cause: by the meaning of words, by the shape of the lines.

None of them is more than inferred, and each says what it rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ongpu.catalog.causes import CauseCatalog
from ongpu.catalog.terms import load_terms
from ongpu.diagnose.likely import Likely, likely, speaking
from ongpu.diagnose.match import Hit
from ongpu.diagnose.model import Diagnosis, Facts, Finding, Rejected, Sure
from ongpu.diagnose.running import runs_on
from ongpu.domain.verdict import Cause

FINDINGS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class View:
    """What every answer is made with: the catalog, the facts of the log, the platform its next step is for."""

    catalog: CauseCatalog
    facts: Facts
    where: str


def by_words(tail: Sequence[Hit], rejected: list[Rejected], view: View) -> Diagnosis | None:
    """No rule knows the output: what its words speak for, never more than inferred."""
    lines = speaking(tail, load_terms(), hypothetical=view.catalog.hypothetical)
    found = likely(lines, load_terms())
    if found is None:
        return None
    fact = view.catalog.causes[found.cause]
    against = []
    if found.next_cause and found.next_told:
        reason = f"line {found.next_told.hit.line} ({found.next_told.term.id}) has fewer of its words"
        against.append(Rejected(cause=found.next_cause, reason=reason))
    return Diagnosis(
        cause=found.cause,
        sure=Sure.INFERRED,
        reason=f"no rule knows this output; its words are those of {found.cause.value}: {found.told[0].term.reason}",
        findings=_findings_of_words(found),
        rejected=distinct([*rejected, *against], found.cause),
        next_step=step_for(fact.next_step, view.where),
        question=fact.question or None,
        facts=view.facts,
    )


def _findings_of_words(found: Likely) -> tuple[Finding, ...]:
    by_line = {one.hit.line: one for one in reversed(found.told)}
    shown = sorted(by_line.values(), key=found.told.index)[:FINDINGS_SHOWN]
    return tuple(Finding(line=one.hit.line, rule=one.term.id, text=one.hit.shown()) for one in shown)


def by_shape(tail: Sequence[Hit], rejected: list[Rejected], view: View) -> Diagnosis | None:
    """No word is known, and none says that anything failed: work that goes on up to the end."""
    steps = runs_on(tail)
    if not steps:
        return None
    fact = view.catalog.causes[Cause.HEALTHY]
    return Diagnosis(
        cause=Cause.HEALTHY,
        sure=Sure.INFERRED,
        reason="lines of one shape, their numbers running on to the end, and no word of a failure",
        findings=tuple(Finding(line=hit.line, rule="numbers-run-on", text=hit.shown()) for hit in reversed(steps)),
        rejected=distinct(rejected, Cause.HEALTHY),
        next_step=step_for(fact.next_step, view.where),
        question="Did the run say which device it uses, and does `nvidia-smi` list its process?",
        facts=view.facts,
    )


def step_for(steps: Mapping[str, str], where: str) -> str:
    """The next step for the platform."""
    return steps.get(where) or (steps.get("linux") if where == "wsl" else None) or steps["any"]


def distinct(rejected: Iterable[Rejected], cause: Cause) -> tuple[Rejected, ...]:
    """One reason a cause, and none against the cause itself."""
    by_cause: dict[Cause, Rejected] = {}
    for one in rejected:
        if one.cause is not cause:
            by_cause.setdefault(one.cause, one)
    return tuple(by_cause.values())
