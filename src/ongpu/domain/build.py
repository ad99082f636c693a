"""PyTorch builds, and the decision which of them runs: one reason per axis, the worst axis wins."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, RuntimeVersion
from ongpu.domain.verdict import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """One published PyTorch build for one platform.

    ``cuda_tag`` is ``cu128``, or ``cpu``. ``targets`` is what the whole library is built for (a handful of
    extra arch-specific cubins is not listed). ``index_url`` is ``None`` for PyPI's own variant.
    """

    torch: str
    channel: str
    cuda_tag: str
    os: str
    arch: str
    pythons: tuple[str, ...]
    targets: tuple[CodeTarget, ...]
    pypi_default: bool
    source: str

    @property
    def runtime(self) -> RuntimeVersion | None:
        """The CUDA runtime version of the tag: 12.8 for ``cu128``; ``None`` for ``cpu``."""
        if not self.cuda_tag.startswith("cu"):
            return None
        digits = self.cuda_tag.removeprefix("cu")
        return RuntimeVersion(major=int(digits[:-1]), minor=int(digits[-1]))

    @property
    def label(self) -> str:
        """``2.14.1+cu126``."""
        return f"{self.torch}+{self.cuda_tag}"


class AxisVerdict(enum.StrEnum):
    """What one axis says, best first."""

    FITS = "fits"
    FITS_WITH_NOTE = "fits-with-note"
    UNKNOWN = "unknown"
    REFUSES = "refuses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a decision, with its reason and the source of the fact."""

    axis: str
    verdict: AxisVerdict
    reason: str
    source: str
    cause: Cause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """How a build meets one device."""

    device: str
    compute_capability: ComputeCapability
    fit: Fit


class DecisionKind(enum.StrEnum):
    """Prebuilt is preferred; source only where no wheel fits; blocked where nothing does."""

    PREBUILT = "prebuilt"
    SOURCE = "source"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A candidate that was not taken, and why."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which build for a machine.

    ``command`` is the installer's argv a person would type. ``assumptions`` names every fact that was not
    given and had to be assumed; ``lost`` what an older choice costs; ``next_step`` is never empty.
    """

    decision: DecisionKind
    torch: str | None
    cuda_tag: str | None
    index_url: str | None
    command: tuple[str, ...]
    fit: tuple[DeviceFit, ...]
    axes: tuple[Axis, ...]
    cause: Cause | None
    alternatives: tuple[Alternative, ...]
    assumptions: tuple[str, ...]
    lost: tuple[str, ...]
    next_step: str
    simulated: bool = False
