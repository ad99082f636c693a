"""What claims are answered from, and what an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ongpu.domain.readings import Readings, RoleReadings
from ongpu.domain.testimony import Trained
from ongpu.domain.verdict import Outcome, Witness, WitnessState


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the claims are answered from.

    ``w2d`` is there where the platform hides processes, ``w5`` where a kernel trace was asked for. ``memory_hidden``:
    the platform tells nothing of the memory of the devices either, so W2d has nothing to say.
    """

    readings: Readings
    role: RoleReadings
    pairs: tuple[Trained, ...]
    w1: Witness
    w2: Witness
    w2d: Witness | None
    w4: Witness
    w5: Witness | None = None
    memory_hidden: bool = False

    @property
    def outside(self) -> Witness:
        """The witness that stands beside W1: W2, or W2d where the platform hides processes, or else W4 and W5 together.

        W4 and W5 never outvote memory that can be read and does not move with what the process reports.
        """
        if self.w2d is None:
            return self.w2
        return self.w2d if self.w5 is None or not self.memory_hidden else _together(self.w4, self.w5)

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """What torch said against the GPU's compute capability."""
        return [one for source in self.role.hooks.values() for one in source.warnings]


def _together(w4: Witness, w5: Witness) -> Witness:
    """The device's energy and the process' own kernels: both, or the first that does not confirm."""
    missing = next((one for one in (w5, w4) if one.state is not WitnessState.CONFIRMED), None)
    hidden = "the platform tells neither processes nor memory, so nobody outside saw this process itself"
    return Witness(
        name="W4+W5",
        title=f"{w4.title}; {w5.title}",
        state=WitnessState.CONFIRMED if missing is None else missing.state,
        level="device",
        reason=f"{w4.reason}. {w5.reason}; {hidden}" if missing is None else f"{missing.name}: {missing.reason}",
        observations=_seqs((*w4.observations, *w5.observations)),
    )


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
