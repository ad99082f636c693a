"""Observations in, verdict out: the one rule, used by the guard and by whoever checks a bundle.

**Proven** needs W1 and the witness that stands beside it (:attr:`ongpu.domain.case.Case.outside`: W2; W2d where the
platform hides processes; W4 and W5 together where it hides the memory of the device too), and no contradiction. A
kernel trace (W5) that contradicts refutes, wherever one was asked for.

**Monotone.** Leaving an observation out never turns a claim, or the verdict, into *proven*. Three things see to
it: every rule asks for something present; whatever could speak against a claim is counted by an observation that
the claim needs (the hook numbers its records and its last one counts them, the sampler does the same, ``guard.end``
lists both); and a journal that is not whole, from ``run.start`` to ``run.end`` without a gap, proves nothing at all.
A contradiction that is left out can only leave *unknown* behind.

What this cannot do: an author who rewrites the journal, counts included, writes what he likes. That is what signatures
and challenges are for (``docs/evidence-format.md``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ongpu.domain import testimony
from ongpu.domain.case import Case
from ongpu.domain.claims import claims_of
from ongpu.domain.kernel_trace import kernel_trace
from ongpu.domain.readings import Readings, read
from ongpu.domain.shapes import JudgeError
from ongpu.domain.verdict import Cause, Claim, Outcome, Verdict, WitnessState, worst
from ongpu.domain.witness import Observation

__all__ = ["JudgeError", "judge"]


def judge(observations: Sequence[Observation]) -> Verdict:
    """The verdict over a journal.

    :param observations: the whole journal in order, ``run.start`` first and ``run.end`` last. A journal without its
        end can be judged, but proves nothing.
    :raises JudgeError: an observation has a shape that the supervisor does not write.
    """
    readings = read(observations)
    case = _case(readings)
    claims = tuple(_bounded(claim, readings) for claim in claims_of(case))
    outcome = worst(claim.outcome for claim in claims if claim.required)
    witnesses = [one for one in (case.w1, case.w2, case.w2d, case.w4, case.w5) if one is not None]
    return Verdict(
        outcome=outcome,
        reason=_reason(outcome, claims, readings),
        claims=claims,
        witnesses=tuple(witnesses),
        level=_level(case) if outcome is Outcome.PROVEN else None,
        cause=_cause(outcome, case),
        simulated=readings.simulated,
    )


def _case(readings: Readings) -> Case:
    role = readings.roles["train"]
    pairs = testimony.trained(role)
    w2, hidden = testimony.driver(role, pairs)
    return Case(
        readings=readings,
        role=role,
        pairs=pairs,
        w1=testimony.inside(role),
        w2=w2,
        w2d=testimony.device_memory(role, pairs) if hidden else None,
        w4=testimony.energy(role, pairs),
        w5=kernel_trace(role, pairs),
        memory_hidden=testimony.memory_hidden(role, pairs),
    )


def _bounded(claim: Claim, readings: Readings) -> Claim:
    """A rehearsal answers nothing; a journal that is not whole proves nothing."""
    if readings.simulated:
        return dataclasses.replace(claim, outcome=Outcome.UNKNOWN, reason="rehearsed: nothing of this was observed")
    if readings.incomplete is not None and claim.outcome is Outcome.PROVEN:
        return dataclasses.replace(claim, outcome=Outcome.UNKNOWN, reason=readings.incomplete)
    return claim


def _reason(outcome: Outcome, claims: Sequence[Claim], readings: Readings) -> str:
    if readings.simulated:
        return "rehearsed: nothing of this was observed on a machine"
    required = [claim for claim in claims if claim.required]
    if outcome is Outcome.PROVEN:
        return f"all {len(required)} required claims are proven"
    first = next(claim for claim in required if claim.outcome is outcome)
    reason = f"{first.id} is {outcome.value}: {first.reason}"
    if readings.blocked is not None and readings.roles["train"].start_seq is None:
        return f"blocked in phase {readings.blocked[1]}, before any training was started; {reason}"
    return reason


def _level(case: Case) -> str:
    return case.outside.level


def _cause(outcome: Outcome, case: Case) -> Cause | None:
    """Why it is not proven, where the observations name it."""
    if outcome is Outcome.PROVEN:
        return Cause.HEALTHY
    if case.readings.simulated:
        return None
    if case.readings.blocked is not None and case.readings.blocked[2] is not None:
        try:
            return Cause(case.readings.blocked[2])
        except ValueError as error:
            raise JudgeError(f"observation {case.readings.blocked[0]}: {error}") from error
    if case.warnings:
        return Cause.WHEEL_NO_ARCH
    if case.w1.state is WitnessState.CONTRADICTED and case.role.status == 0:
        return Cause.SILENT_CPU
    return None
