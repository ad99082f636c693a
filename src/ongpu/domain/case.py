"""What claims are answered from, and what an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ongpu.domain.readings import Readings, RoleReadings
from ongpu.domain.testimony import Trained
from ongpu.domain.verdict import Outcome, Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the claims are answered from."""

    readings: Readings
    role: RoleReadings
    pairs: tuple[Trained, ...]
    w1: Witness
    w2: Witness
    w2d: Witness | None
    w4: Witness

    @property
    def outside(self) -> Witness:
        """The witness that speaks from outside: W2, or W2d where the platform hides processes."""
        return self.w2d if self.w2d is not None else self.w2

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """What torch said against the GPU's compute capability."""
        return [one for source in self.role.hooks.values() for one in source.warnings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An outcome with its reason and what it rests on."""

    outcome: Outcome
    reason: str
    observations: tuple[int, ...] = ()


def proven(reason: str, *observations: int | None) -> Answer:
    """Shorthand for a proven answer."""
    return Answer(outcome=Outcome.PROVEN, reason=reason, observations=_seqs(observations))


def refuted(reason: str, *observations: int | None) -> Answer:
    """Shorthand for a refuted answer."""
    return Answer(outcome=Outcome.REFUTED, reason=reason, observations=_seqs(observations))


def unknown(reason: str, *observations: int | None) -> Answer:
    """Shorthand for an unknown answer."""
    return Answer(outcome=Outcome.UNKNOWN, reason=reason, observations=_seqs(observations))


def _seqs(observations: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(sorted({one for one in observations if one is not None}))


def child_ended_well(case: Case) -> Answer | None:
    """Why the command's own end rules out a proof; ``None`` when it ended with status 0."""
    role = case.role
    if role.start_seq is None:
        return unknown("the command was never started")
    if role.status is None:
        return unknown("the command's end was not recorded", role.start_seq)
    if role.stopped_reason is not None:
        return unknown(f"the command was stopped: {role.stopped_reason}", role.exit_seq)
    if role.interrupted:
        return unknown("the command was interrupted", role.exit_seq)
    if role.status != 0:
        return unknown(f"the command failed with status {role.status}", role.exit_seq)
    return None
