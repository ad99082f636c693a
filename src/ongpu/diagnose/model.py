"""What a diagnosis is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ongpu.domain.verdict import Cause


class Sure(enum.StrEnum):
    """How sure a diagnosis is."""

    DECISIVE = "decisive"
    INFERRED = "inferred"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line a cause rests on. ``line`` counts from 1; ``text`` is the line without terminal escapes, cut."""

    line: int
    rule: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A cause the log shows signs of, and why it is not the one."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the log says of the machine, each value once, the one named last at the end. Nothing here is verified.

    ``driver_versions`` are kernel-mode versions; ``cuda_driver_versions`` the ceiling that ``nvidia-smi`` prints
    and torch names by number; ``cuda_runtime_versions`` what torch was built with; ``code_targets`` the list torch
    says it was built for, ``capability_ranges`` the same as ``8.0-12.0``; ``pci_ids`` the device ids of NVIDIA's
    vendor number.
    """

    gpus: tuple[str, ...] = ()
    driver_versions: tuple[str, ...] = ()
    cuda_driver_versions: tuple[str, ...] = ()
    cuda_runtime_versions: tuple[str, ...] = ()
    torch_versions: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    code_targets: tuple[str, ...] = ()
    capability_ranges: tuple[str, ...] = ()
    pci_ids: tuple[str, ...] = ()
    python_versions: tuple[str, ...] = ()
    platform: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The cause a log names.

    ``findings`` are the lines it rests on; ``rejected`` the competing causes with the reason against each;
    ``question`` what would decide it where the log cannot tell (``None`` where it can). ``unread_lines`` counts lines
    in the midst of a huge log that were not looked at, each of a kind of its own; where there are any, no cause is
    decisive.
    """

    cause: Cause
    sure: Sure
    reason: str
    findings: tuple[Finding, ...]
    rejected: tuple[Rejected, ...]
    next_step: str
    question: str | None
    facts: Facts
    unread_lines: int = 0
