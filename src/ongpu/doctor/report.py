"""What `doctor` answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ongpu.domain.arch import CodeTarget, ComputeCapability
from ongpu.domain.coverage import BinaryCoverage, CodeVerdict, DeviceCoverage, ScanReport
from ongpu.domain.verdict import Cause, Outcome
from ongpu.scan import Displaced


class Weight(enum.StrEnum):
    """How much a finding matters, heaviest first."""

    BLOCKS = "blocks"
    """Training on the GPU cannot work until this is changed."""
    UNKNOWN = "unknown"
    """It could not be found out, and it may block."""
    WARNS = "warns"
    """Training works; something else will fail, or be slow."""
    NOTES = "notes"
    """Worth knowing; nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found. ``lines`` are the readings it rests on."""

    weight: Weight
    cause: Cause | None
    title: str
    reason: str
    next_step: str | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """How the environment's torch meets one GPU that a program sees."""

    name: str
    compute_capability: ComputeCapability | None
    torch: CodeVerdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageReport:
    """A package with device code, and how it meets each visible GPU."""

    name: str
    version: str
    fits: tuple[DeviceCoverage, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledCode:
    """What was read of an environment's device code.

    ``torch`` are torch's own CUDA libraries; ``packages`` everything else; ``torch_folders`` every folder on the
    path that holds a torch, the one that is imported first; ``displaced`` what ``LD_LIBRARY_PATH`` changes for it.
    """

    torch: tuple[BinaryCoverage, ...]
    packages: ScanReport | None
    torch_folders: tuple[str, ...] = ()
    displaced: tuple[Displaced, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """Can this environment train on this machine's GPU; if not, why, and what to type.

    ``outcome`` is about what can be read without running anything on the GPU: proven says that the GPU is visible,
    the driver serves the installed torch, and its files hold code for the GPU. Only a run proves training.
    """

    outcome: Outcome
    cause: Cause
    summary: str
    next_step: str
    findings: tuple[Finding, ...]
    devices: tuple[DeviceReport, ...]
    packages: tuple[PackageReport, ...]
    python: str
    environment: str
    torch: str | None
    cuda_tag: str | None
    cuda_runtime: str | None
    targets: tuple[CodeTarget, ...]
    driver: str | None
    driver_cuda: str | None
    deep: bool = False
    simulated: bool = False
