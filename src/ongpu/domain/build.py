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
    extra arch-specific cubins is not listed); empty for a CUDA build means that nobody knows. ``pythons`` are
    tags such as ``3.12`` and ``3.13t``; empty means unknown as well. ``evidence`` is how the targets are known:
    ``binary``, ``script``, ``report`` or ``inferred``. ``publication`` is ``seen`` (on PyPI), ``stated`` (in the
    release's own table), ``unprobed`` (in build scripts alone) or ``unverified``.
    ``checked`` is the date of the reading, ``2026-11-22``.
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
    evidence: str = "script"
    publication: str = "stated"
    checked: str = ""

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
class Companion:
    """``torchvision`` or ``torchaudio`` beside the chosen torch.

    ``version`` is ``None`` where none is known to pair with it; ``reason`` then says why, and otherwise what
    the pairing rests on. ``fits`` is whether its own CUDA code serves the GPUs; ``None``: its code was not read.
    """

    name: str
    version: str | None
    fits: bool | None
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPart:
    """One environment of a machine whose GPUs no single build serves, or serves with an older torch only.

    ``devices`` are indexes into ``Machine.devices``; ``mask`` the value of ``CUDA_VISIBLE_DEVICES`` that shows
    exactly these (UUIDs; where they are not known, a placeholder in angle brackets).
    """

    devices: tuple[int, ...]
    mask: str
    torch: str
    label: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which build for a machine.

    ``command`` is the installer's argv a person would type. ``assumptions`` names every fact that was not
    given and had to be assumed; ``lost`` what an older choice costs; ``next_step`` is never empty. ``recipe``
    holds the lines of a build script where the decision is to build from source. ``split`` names separate
    environments where no single build serves every GPU. ``python`` is the tag the choice was made for.
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
    python: str | None = None
    companions: tuple[Companion, ...] = ()
    split: tuple[SplitPart, ...] = ()
    recipe: tuple[str, ...] = ()
    catalog_date: str | None = None
