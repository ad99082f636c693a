"""Signals -> one cause, with what speaks for it and against the others.

The order of reasoning, each step shown in the result:

1. A rule counts only where its context holds (``needs``, ``unless``, ``near``, ``not_near``). Where a program of this
   project stopped and named the cause, that is the answer: it asked the machine.
2. Of several attempts in one log the last one counts, unless the machine itself is at fault.
3. A failure that a training run went past is no failure, unless its cause lets a program run on (no GPU used).
4. A cause that brings about another one's signs takes them with it (``explains``): the GPU that fell off the bus
   explains the collective that timed out.
5. Of what is left, the strongest sign wins; among equals the one nearest to the end, then the one nearest to the
   root (the order of the rules).
6. Nothing left: what the run itself says (it trained on the CPU; it was healthy), where its work bears it out.
7. Nothing of that either, or only an exception that no rule names: the cause whose words the end of the log is made of
   (:mod:`ongpu.diagnose.likely`); work whose numbers run on (:mod:`ongpu.diagnose.running`); else undetermined.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ongpu.catalog.causes import CauseCatalog, Rule, Strength, load_causes
from ongpu.catalog.terms import load_terms
from ongpu.diagnose.beyond import FINDINGS_SHOWN, View, by_shape, by_words, distinct, step_for
from ongpu.diagnose.derive import derived
from ongpu.diagnose.likely import speaking
from ongpu.diagnose.match import Hit, RuleIndex, Signal, Signals, scan
from ongpu.diagnose.model import Diagnosis, Finding, Rejected, Sure
from ongpu.domain.verdict import Cause

# Contexts the decision itself looks at; they are rules of the catalog like the others.
_PROGRESS: Final = "context-progress"
_COMPLETED: Final = "context-completed"
_ATTEMPT: Final = "context-attempt"
_GPU_IN_USE: Final = "context-gpu-in-use"
_ERROR: Final = "context-error"
_TRACEBACK: Final = "context-traceback"
_NOTHING_FAILED: Final = "fact-nothing-failed"
# The rules of what this project's programs say of themselves.
_OWN: Final = "own-"
# The rules of what other words must explain: an exception that no rule names, pip's summary of a build.
_PYTHONS_OWN: Final = "program-exception"
_UNNAMED: Final = frozenset({"generic-error", _PYTHONS_OWN, "build-failed"})
# What shows that work was done, beside the rules of ``healthy`` themselves; those that only name a device do not.
_WORK: Final = (_PROGRESS, _COMPLETED, "context-gpu-loaded")
_ONLY_NAMES_A_DEVICE: Final = frozenset({"healthy-run", "healthy-gpu-signs"})
_FAILED: Final = (_ERROR, _TRACEBACK)
_TROUBLE: Final = (*_FAILED, "context-trouble")
_PROGRESS_NEEDED: Final = 3
# Where the log ends in an error, other ranks may have gone on for some steps after the one that failed first.
_PROGRESS_BEFORE_ANOTHER_ERROR: Final = 30
_GOES_ON: Final = "What does the run print next: steps or results, an error, or nothing at all?"
# A log may end in a line or two about a checkpoint, or in a shell's prompt.
_LINES_AFTER_STEPS: Final = 3


# Causes that lie in the environment outlast the attempt that met them; every other one belongs to its attempt.
_OF_THE_MACHINE: Final = frozenset(
    {
        Cause.HARDWARE_FAULT,
        Cause.DRIVER_BROKEN,
        Cause.DRIVER_TOO_NEW,
        Cause.DRIVER_TOO_OLD,
        Cause.NO_GPU_VISIBLE,
    }
)
# What a run says of itself where nothing failed.
_QUIET: Final = frozenset({Cause.HEALTHY, Cause.SILENT_CPU})


@dataclass(frozen=True, slots=True)
class _Candidate:
    rule: Rule
    order: int
    hits: tuple[Hit, ...]
    count: int

    @property
    def cause(self) -> Cause:
        assert self.rule.cause is not None
        return self.rule.cause

    @property
    def last(self) -> int:
        return self.hits[-1].line


def diagnose(
    data: bytes | Iterable[bytes], *, platform: str | None = None, catalog: CauseCatalog | None = None
) -> Diagnosis:
    """Name the cause a log shows. Pure, in bounded memory.

    :param data: the log, whole or in parts of any size.
    :param platform: ``linux``, ``windows`` or ``wsl``, for the next step; read from the log where ``None``.
    """
    index = _own_index() if catalog is None else RuleIndex(catalog.rules, catalog.hypothetical)
    catalog = catalog or load_causes()
    signals = scan(data, index)
    found = _decide(signals, catalog, platform=platform)
    if not signals.unread_lines:
        return found
    sure = Sure.INFERRED if found.sure is Sure.DECISIVE else found.sure
    question = found.question or catalog.causes[found.cause].question or None
    return dataclasses.replace(found, sure=sure, question=question, unread_lines=signals.unread_lines)


@functools.cache
def _own_index() -> RuleIndex:
    catalog = load_causes()
    return RuleIndex(catalog.rules, catalog.hypothetical)


def _decide(signals: Signals, catalog: CauseCatalog, *, platform: str | None) -> Diagnosis:
    facts = signals.facts.facts()
    view = View(catalog, facts, platform or facts.platform or "linux")
    contexts = derived(facts) | _steps_to_the_end(signals) | _nothing_failed(signals, catalog)
    candidates = _candidates(signals, catalog, set(signals.fired) | contexts)
    candidates, rejected = _last_attempt(candidates, signals)
    if said := _said_by_us(candidates, signals):
        why = f"the program that printed line {said.last} asked the machine itself"
        others = [Rejected(cause=one.cause, reason=f"line {one.last}: {why}") for one in candidates if one is not said]
        return _choose([said], [*rejected, *others], view)
    live, passed = _live(candidates, signals, catalog)
    rejected += passed
    live, explained = _unexplained(live, catalog)
    rejected += explained
    quiet = [one for one in candidates if one.cause in _QUIET]
    ended_in_error = _ended_in_error(signals, candidates)
    if ended_in_error:
        quiet = [one for one in quiet if one.cause is Cause.SILENT_CPU]
    quiet, unproven = _borne_out(quiet, live, signals, catalog)
    rejected += unproven
    if live and not _are_remarks(live, quiet, ended_in_error=ended_in_error):
        return _asked_of_words(signals, live, rejected, view) or _choose(live, rejected, view)
    rejected += [Rejected(cause=one.cause, reason=f"line {one.last} is a remark, and the run went on") for one in live]
    if quiet:
        weak_only = all(one.rule.strength is Strength.WEAK for one in quiet)
        on_the_cpu = [one for one in quiet if one.cause is Cause.SILENT_CPU]
        # That it worked is no sign of where it did.
        return _choose(on_the_cpu if weak_only and on_the_cpu else quiet, rejected, view)
    found = by_words(_after_training(signals), rejected, view)
    if not found and _NOTHING_FAILED in contexts:
        found = by_shape(signals.tail, rejected, view)
    return found or _undetermined(rejected, view)


def _said_by_us(candidates: list[_Candidate], signals: Signals) -> _Candidate | None:
    """The last cause that a program of this project named when it stopped, unless a run trained after it."""
    own = [one for one in candidates if one.rule.id.startswith(_OWN)]
    last = max(own, key=lambda one: one.last, default=None)
    return last if last and not _count_after(signals, _PROGRESS, last.last) else None


def _asked_of_words(signals: Signals, live: list[_Candidate], rejected: list[Rejected], view: View) -> Diagnosis | None:
    """What the words say where every failure is one that other words must explain."""
    if not all(one.rule.id in _UNNAMED for one in live):
        return None
    found = by_words(_after_training(signals), rejected, view)
    return found if found and all(found.cause is not one.cause for one in live) else None


def _steps_to_the_end(signals: Signals) -> set[str]:
    """The context of a log whose last lines are training steps, several of them after any error."""
    steps = signals.fired.get(_PROGRESS)
    if steps is None or steps.hits()[-1].line < signals.lines - _LINES_AFTER_STEPS:
        return set()
    if _count_after(signals, _PROGRESS, _last_line(signals, _TROUBLE)) < _PROGRESS_NEEDED:
        return set()
    return {"fact-steps-to-the-end"}


def _nothing_failed(signals: Signals, catalog: CauseCatalog) -> set[str]:
    """The context of a log without an error, and without a word of one in its last lines."""
    if _last_line(signals, _FAILED) or _last_line(signals, _TROUBLE) > _last_line(signals, _WORK):
        return set()
    return set() if _last_failing_word(signals, catalog) else {_NOTHING_FAILED}


def _are_remarks(live: list[_Candidate], quiet: list[_Candidate], *, ended_in_error: bool) -> bool:
    """Whether the failures are weak remarks, and the run says plainly what it ran on."""
    if any(one.rule.strength > Strength.WEAK for one in live):
        return False
    plain = {one.cause for one in quiet if one.rule.strength > Strength.WEAK}
    if Cause.SILENT_CPU in plain and all(one.cause is Cause.NO_GPU_VISIBLE for one in live):
        return True
    return bool(plain) and not ended_in_error


def _borne_out(
    quiet: list[_Candidate], live: list[_Candidate], signals: Signals, catalog: CauseCatalog
) -> tuple[list[_Candidate], list[Rejected]]:
    """Of what a run says of itself: what no failure follows, and ``healthy`` only with work done after any trouble."""
    trouble = max([_last_line(signals, _TROUBLE), *(one.last for one in live)])
    shown = [one.last for one in quiet if one.cause is Cause.HEALTHY and one.rule.id not in _ONLY_NAMES_A_DEVICE]
    work = max([_last_line(signals, _WORK), *shown])
    failed = _last_line(signals, _FAILED)
    worked = work > trouble and work >= _last_failing_word(signals, catalog)
    kept = [one for one in quiet if worked or (one.cause is Cause.SILENT_CPU and one.last >= failed)]
    why = "trouble stands after the last work" if work else "no line shows that work was done"
    return kept, [
        Rejected(cause=one.cause, reason=f"line {one.last} ({one.rule.id}): {why}") for one in quiet if one not in kept
    ]


def _last_line(signals: Signals, names: Iterable[str]) -> int:
    """The last line on which one of these rules fired; 0 where none did."""
    return max((signals.fired[name].hits()[-1].line for name in names if name in signals.fired), default=0)


def _ended_in_error(signals: Signals, candidates: list[_Candidate]) -> bool:
    """Whether a failure or an error line stands after the last sign of training: such a run is not healthy."""
    last = _last_sign_of_training(signals)
    failures = [one for one in candidates if one.cause not in _QUIET and one.rule.strength > Strength.WEAK]
    return any(one.last > last for one in failures) or _count_after(signals, _ERROR, last) > 0


def _last_sign_of_training(signals: Signals) -> int:
    """The line of it; 0 where there is none."""
    return _last_line(signals, (_PROGRESS, _COMPLETED))


def _last_failing_word(signals: Signals, catalog: CauseCatalog) -> int:
    """The last line that says that something failed; 0 where none of the last ones does."""
    lines = speaking(signals.tail, load_terms(), hypothetical=catalog.hypothetical)
    return max((line.hit.line for line in lines if line.failing), default=0)


def _after_training(signals: Signals) -> list[Hit]:
    """The last lines, less those before the last sign of training."""
    ran = _last_sign_of_training(signals)
    return [hit for hit in signals.tail if hit.line > ran]


def _precedence(one: _Candidate) -> tuple[Strength, bool, bool, int, int]:
    # A bare exception of Python's may follow from whatever else was said.
    specific = one.rule.id != _PYTHONS_OWN
    return one.rule.strength, one.cause is not Cause.UNDETERMINED, specific, one.last, -one.order


def _choose(candidates: list[_Candidate], rejected: list[Rejected], view: View) -> Diagnosis:
    """The strongest sign; among equals the one nearest to the end, then the one nearest to the root."""
    best = max(candidates, key=_precedence)
    same = [one for one in candidates if one.cause == best.cause and one is not best]
    rivals = [one for one in candidates if one.cause != best.cause]
    against = []
    for one in rivals:
        if one.rule.strength < best.rule.strength:
            weaker = "is a weaker sign than"
        else:
            weaker = "may follow from" if one.rule.id == _PYTHONS_OWN else "is further from the end than"
        against.append(Rejected(cause=one.cause, reason=f"line {one.last} ({one.rule.id}) {weaker} {best.rule.id}"))
    contested = any(one.rule.strength is Strength.DECISIVE for one in rivals)
    sure = Sure.DECISIVE if best.rule.strength is Strength.DECISIVE and not contested else Sure.INFERRED
    if best.cause is Cause.UNDETERMINED:
        sure = Sure.UNDETERMINED
    fact = view.catalog.causes[best.cause]
    return Diagnosis(
        cause=best.cause,
        sure=sure,
        reason=best.rule.place,
        findings=_findings(best, same),
        rejected=distinct([*rejected, *against], best.cause),
        next_step=step_for(best.rule.next_step or fact.next_step, view.where),
        question=None if sure is Sure.DECISIVE else best.rule.question or fact.question or None,
        facts=view.facts,
    )


def _undetermined(rejected: list[Rejected], view: View) -> Diagnosis:
    fact = view.catalog.causes[Cause.UNDETERMINED]
    return Diagnosis(
        cause=Cause.UNDETERMINED,
        sure=Sure.UNDETERMINED,
        reason="no line of the log names a cause",
        findings=(),
        rejected=distinct(rejected, Cause.UNDETERMINED),
        next_step=step_for(fact.next_step, view.where),
        question=_GOES_ON if any(one.cause is Cause.HEALTHY for one in rejected) else fact.question,
        facts=view.facts,
    )


def _findings(best: _Candidate, same: list[_Candidate]) -> tuple[Finding, ...]:
    """The last line of each rule, the deciding rule first, then its other lines while there is room."""
    chosen = [(one.hits[-1], one.rule.id) for one in (best, *same)]
    chosen += [(hit, best.rule.id) for hit in reversed(best.hits[:-1])]
    seen: set[tuple[int, str]] = set()
    findings: list[Finding] = []
    for hit, rule in chosen:
        if (hit.line, hit.shown()) in seen or len(findings) == FINDINGS_SHOWN:
            continue
        seen.add((hit.line, hit.shown()))
        findings.append(Finding(line=hit.line, rule=rule, text=hit.shown()))
    return tuple(findings)


def _candidates(signals: Signals, catalog: CauseCatalog, present: set[str]) -> list[_Candidate]:
    found: list[_Candidate] = []
    for order, rule in enumerate(catalog.rules):
        signal = signals.fired.get(rule.id)
        if signal is None or rule.cause is None or present.intersection(rule.unless):
            continue
        if rule.needs and not present.intersection(rule.needs):
            continue
        hits = tuple(hit for hit in signal.hits() if _in_context(hit, rule, signals))
        if hits:
            found.append(_Candidate(rule, order, hits, signal.count))
    return found


def _in_context(hit: Hit, rule: Rule, signals: Signals) -> bool:
    if rule.near and not any(_close(hit, signals.fired.get(name), rule) for name in rule.near):
        return False
    return not any(_close(hit, signals.fired.get(name), rule) for name in rule.not_near)


def _close(hit: Hit, signal: Signal | None, rule: Rule) -> bool:
    return signal is not None and any(
        hit.line - rule.within <= one.line <= hit.line + rule.after for one in signal.hits()
    )


def _last_attempt(candidates: list[_Candidate], signals: Signals) -> tuple[list[_Candidate], list[Rejected]]:
    """Leave out what an earlier attempt in the same log failed of, where the last one has something to say itself."""
    began = signals.fired.get(_ATTEMPT)
    if began is None:
        return candidates, []
    line = began.hits()[-1].line
    told = any(one.last > line and one.rule.strength > Strength.WEAK for one in candidates)
    if not told:
        return candidates, []
    kept: list[_Candidate] = []
    earlier: list[Rejected] = []
    for one in candidates:
        if one.last > line or one.cause in _OF_THE_MACHINE or one.cause in _QUIET:
            kept.append(one)
        else:
            reason = f"line {one.last} ({one.rule.id}) is of an attempt before line {line}"
            earlier.append(Rejected(cause=one.cause, reason=reason))
    return kept, earlier


def _live(
    candidates: list[_Candidate], signals: Signals, catalog: CauseCatalog
) -> tuple[list[_Candidate], list[Rejected]]:
    """Leave out the failures that training went past."""
    failed = _ended_in_error(signals, candidates)
    live: list[_Candidate] = []
    passed: list[Rejected] = []
    for one in candidates:
        if one.cause in _QUIET:
            continue
        gpu_after = _count_after(signals, _GPU_IN_USE, one.last)
        outlives = catalog.causes[one.cause].outlives_progress and not gpu_after
        steps_after = _count_after(signals, _PROGRESS, one.last)
        completed = _count_after(signals, _COMPLETED, one.last)
        needed = _PROGRESS_BEFORE_ANOTHER_ERROR if failed else _PROGRESS_NEEDED
        if not outlives and (steps_after >= needed or completed):
            reason = f"line {one.last} ({one.rule.id}): the run went on after it"
            passed.append(Rejected(cause=one.cause, reason=reason))
        else:
            live.append(one)
    return live, passed


def _count_after(signals: Signals, name: str, line: int) -> int:
    signal = signals.fired.get(name)
    return sum(hit.line > line for hit in signal.hits()) if signal else 0


def _unexplained(live: list[_Candidate], catalog: CauseCatalog) -> tuple[list[_Candidate], list[Rejected]]:
    """Leave out the causes whose signs another cause, at least as strong, brings about."""
    kept: list[_Candidate] = []
    explained: list[Rejected] = []
    for one in live:
        root = next(
            (
                other
                for other in live
                if one.cause in catalog.causes[other.cause].explains
                and other.rule.strength >= one.rule.strength
                and one.cause not in {other.cause}
            ),
            None,
        )
        if root is None:
            kept.append(one)
        else:
            reason = f"line {one.last} ({one.rule.id}) is a consequence of {root.cause.value} (line {root.last})"
            explained.append(Rejected(cause=one.cause, reason=reason))
    # two causes that explain each other would both vanish: the nearest to the root stays
    return (kept or live[:1]), (explained if kept or not live else explained[1:])
