"""Claims, outcomes, verdicts and causes: the words every answer of this tool is made of."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Outcome(enum.StrEnum):
    """The three answers. Unknown is never rounded up."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Refuted if any is refuted, else unknown if any is unknown or there is none, else proven."""
    seen = set(outcomes)
    if Outcome.REFUTED in seen:
        return Outcome.REFUTED
    if Outcome.UNKNOWN in seen or not seen:
        return Outcome.UNKNOWN
    return Outcome.PROVEN


class Cause(enum.StrEnum):
    """Why it is blocked: one vocabulary for plan, doctor, diagnose and enable."""

    WHEEL_NO_ARCH = "wheel-no-arch"
    CPU_ONLY_TORCH = "cpu-only-torch"
    EXTENSION_NO_ARCH = "extension-no-arch"
    CUDA_VERSION_MISMATCH = "cuda-version-mismatch"
    DRIVER_TOO_OLD = "driver-too-old"
    DRIVER_TOO_NEW = "driver-too-new"
    DRIVER_BROKEN = "driver-broken"
    NO_GPU_VISIBLE = "no-gpu-visible"
    OUT_OF_MEMORY = "out-of-memory"
    HARDWARE_FAULT = "hardware-fault"
    DEVICE_BUSY = "device-busy"
    MULTI_GPU_COMM = "multi-gpu-comm"
    PYTHON_ENV = "python-env"
    PROGRAM_ERROR = "program-error"
    SILENT_CPU = "silent-cpu"
    HEALTHY = "healthy"
    UNDETERMINED = "undetermined"


class WitnessState(enum.StrEnum):
    """What a witness has to say. Unavailable and error never count as confirmed."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNAVAILABLE = "unavailable"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One witness' statement over a whole run.

    ``name`` is ``W1`` ... ``W6`` or ``W2d``; ``level`` is ``process`` or ``device``; ``observations`` are the
    journal sequence numbers it rests on.
    """

    name: str
    title: str
    state: WitnessState
    level: str
    reason: str
    observations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence with its answer.

    ``required`` claims decide the verdict; the others are shown beside it. ``observations`` are the journal
    sequence numbers the answer rests on.
    """

    id: str
    statement: str
    outcome: Outcome
    reason: str
    required: bool = True
    observations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer over a run: the worst required claim, every claim, every witness."""

    outcome: Outcome
    reason: str
    claims: tuple[Claim, ...]
    witnesses: tuple[Witness, ...] = ()
    level: str | None = None
    cause: Cause | None = None
    simulated: bool = False
