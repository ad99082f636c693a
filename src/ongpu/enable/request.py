"""What is asked of ``enable``, what it answers, and who watches it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ongpu.domain.verdict import Cause, Outcome, Verdict
from ongpu.evidence.dsse import Signer
from ongpu.proof.answers import EXIT_STATUS

PHASES = ("probe", "plan", "install", "scan", "smoke", "train", "compare", "evidence")


class PhaseOutcome(enum.StrEnum):
    """How a phase ended. Noted: it went on with something a person should read."""

    DONE = "done"
    NOTED = "noted"
    REHEARSED = "rehearsed"
    SKIPPED = "skipped"
    REFUTED = "refuted"
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase as it ended. ``seconds`` is wall time by the monotonic clock."""

    name: str
    outcome: PhaseOutcome
    seconds: float
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableRequest:
    """What to enable, where, and for which command.

    :param project: the user's project; ``None`` takes this folder where it is the milestone's repository.
    :param venv: the environment to make; not used with ``python``.
    :param evidence: the bundle's folder; a default that is taken gets a numbered sibling, one that was named
        and is taken is an error.
    :param python: an existing environment's interpreter, adopted instead of making one.
    :param rehearse: name of a described machine, or the path of a recorded one.
    :param signer: signs the sealed bundle.
    :param nonce: the reviewer's challenge; the training is seeded with what follows from it.
    :param trace_steps: record the kernels of that many steps (2 to 5) from inside the training.
    :param command: what to train with; empty takes the milestone's command, or the reference training.
    """

    project: Path | None = None
    extra: str | None = None
    venv: Path = Path(".venv-gpu")
    expect_gpu: str | None = None
    evidence: Path | None = None
    python: str | None = None
    rehearse: str | None = None
    command: tuple[str, ...] = ()
    pseudonymous: bool = False
    torch_spec: str | None = None
    channel: str = "stable"
    index_url: str | None = None
    find_links: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    signer: Signer | None = None
    nonce: str | None = None
    trace_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableReport:
    """How the road ended.

    ``lines`` are the output lines that ``cause`` rests on; ``bundle`` the sealed folder.
    """

    phases: tuple[Phase, ...]
    verdict: Verdict
    outcome: Outcome
    cause: Cause | None
    blocked_in: str | None
    reason: str
    lines: tuple[str, ...]
    next_step: str
    bundle: str
    rehearsed: bool

    @property
    def exit_status(self) -> int:
        """0 proven, or a rehearsal that was completed; 1 refuted; 3 blocked or unknown."""
        if self.blocked_in is not None:
            return 3
        if self.rehearsed:
            return 0
        return EXIT_STATUS[self.outcome]


class Watch(Protocol):
    """Who is told how it goes."""

    def phase_began(self, name: str) -> None:
        """A phase begins."""
        ...

    def note(self, text: str) -> None:
        """One line about the phase under way."""
        ...

    def output(self, data: bytes) -> None:
        """Bytes that a child printed."""
        ...

    def phase_ended(self, phase: Phase) -> None:
        """A phase has ended."""
        ...
