"""The axes that a build decides: Python, glibc, the request, code for every GPU, the driver, publication.

Only builds for the machine's own system and CPU architecture come here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.catalog import Catalog
from ongpu.domain.arch import CodeKind, ComputeCapability, Fit, best_fit, runs
from ongpu.domain.build import Axis, AxisVerdict, DeviceFit, TorchBuild
from ongpu.domain.verdict import Cause
from ongpu.plan.driver_axis import driver_axis
from ongpu.plan.facts import Facts, dotted
from ongpu.plan.request import Request, Requirement

_ORDER = tuple(AxisVerdict)
_GB10 = ComputeCapability(12, 1)
_TURING = ComputeCapability(7, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A build, judged. ``fits`` has one entry a device, in the machine's order."""

    build: TorchBuild
    axes: tuple[Axis, ...]
    fits: tuple[DeviceFit, ...]

    @property
    def worst(self) -> AxisVerdict:
        """The worst axis, which decides."""
        return max((one.verdict for one in self.axes), key=_ORDER.index)

    def refusals(self) -> frozenset[str]:
        """The names of the axes that refuse."""
        return frozenset(one.axis for one in self.axes if one.verdict is AxisVerdict.REFUSES)

    def unknowns(self) -> frozenset[str]:
        """The names of the axes whose answer nobody has."""
        return frozenset(one.axis for one in self.axes if one.verdict is AxisVerdict.UNKNOWN)

    def axis(self, name: str) -> Axis:
        """One axis by name."""
        return next(one for one in self.axes if one.axis == name)

    @property
    def native(self) -> bool:
        """Whether every GPU runs machine code, none needs the driver's compiler."""
        return all(one.fit is Fit.NATIVE for one in self.fits)


def judge(
    build: TorchBuild, facts: Facts, *, catalog: Catalog, request: Request, requirement: Requirement | None
) -> Candidate:
    """Judge one build by every axis."""
    fits = tuple(
        DeviceFit(
            device=one.name,
            compute_capability=one.capability,
            fit=best_fit(build.targets, one.capability, runtime=build.runtime),
        )
        for one in facts.devices
        if one.capability is not None
    )
    axes = (
        _python(build, facts),
        _glibc(build, facts, catalog=catalog),
        _requirement(build, requirement),
        _channel(build, request),
        _coverage(build, facts, fits),
        driver_axis(build, facts, fits, catalog=catalog),
        _publication(build),
    )
    return Candidate(build=build, axes=axes, fits=fits)


def _python(build: TorchBuild, facts: Facts) -> Axis:
    if not build.pythons:
        return Axis(
            axis="python",
            verdict=AxisVerdict.UNKNOWN,
            reason=f"which Pythons {build.label} was published for is not known",
            source=build.source,
        )
    if facts.python in build.pythons:
        given = "" if facts.python_known else " (assumed: no Python was given)"
        verdict = AxisVerdict.FITS if facts.python_known else AxisVerdict.FITS_WITH_NOTE
        return Axis(axis="python", verdict=verdict, reason=f"Python {facts.python}{given}", source=build.source)
    return Axis(
        axis="python",
        verdict=AxisVerdict.REFUSES,
        reason=f"no wheel for Python {facts.python}: torch {build.torch} has {build.pythons[0]} to {build.pythons[-1]}",
        source=build.source,
        cause=Cause.PYTHON_ENV,
    )


def _glibc(build: TorchBuild, facts: Facts, *, catalog: Catalog) -> Axis:
    row = catalog.glibc(build)
    if row is None:
        return Axis(axis="glibc", verdict=AxisVerdict.FITS, reason="not a Linux build", source="glibc.csv")
    needed = dotted(row.glibc)
    if facts.glibc is None:
        simulated = facts.machine.simulated
        return Axis(
            axis="glibc",
            verdict=AxisVerdict.FITS_WITH_NOTE if simulated else AxisVerdict.UNKNOWN,
            reason=f"needs glibc {needed} or newer",
            source=row.source,
        )
    if facts.glibc >= row.glibc:
        return Axis(axis="glibc", verdict=AxisVerdict.FITS, reason=f"needs glibc {needed}", source=row.source)
    return Axis(
        axis="glibc",
        verdict=AxisVerdict.REFUSES,
        reason=f"needs glibc {needed}; this system has {dotted(facts.glibc)}",
        source=row.source,
        cause=Cause.PYTHON_ENV,
    )


def _requirement(build: TorchBuild, requirement: Requirement | None) -> Axis:
    if requirement is None:
        return Axis(
            axis="requirement", verdict=AxisVerdict.FITS, reason="any torch was asked for", source="the request"
        )
    allowed = requirement.allows(build)
    return Axis(
        axis="requirement",
        verdict=AxisVerdict.FITS if allowed else AxisVerdict.REFUSES,
        reason=f"{requirement.text!r} {'allows' if allowed else 'excludes'} {build.label}",
        source="the request",
        cause=None if allowed else Cause.WHEEL_NO_ARCH,
    )


def _channel(build: TorchBuild, request: Request) -> Axis:
    allowed = request.channel in {"any", build.channel}
    reason = f"{build.channel} build"
    return Axis(
        axis="channel",
        verdict=AxisVerdict.FITS if allowed else AxisVerdict.REFUSES,
        reason=reason if allowed else f"{reason}; {request.channel} was asked for",
        source="the request",
        cause=None if allowed else Cause.WHEEL_NO_ARCH,
    )


def _coverage(build: TorchBuild, facts: Facts, fits: tuple[DeviceFit, ...]) -> Axis:
    if not build.targets:
        return Axis(
            axis="coverage",
            verdict=AxisVerdict.UNKNOWN,
            reason=f"nobody has said which GPUs {build.label} for {build.os} has code for",
            source=build.source,
        )
    without = [one for one in fits if one.fit is Fit.NONE]
    if without:
        names = " and ".join(dict.fromkeys(f"{one.device} ({one.compute_capability})" for one in without))
        return Axis(
            axis="coverage",
            verdict=AxisVerdict.REFUSES,
            reason=f"no code for {names}: it has {_span(build)}",
            source=build.source,
            cause=Cause.WHEEL_NO_ARCH,
        )
    notes = [_by(build, one) for one in dict.fromkeys(fits)]
    verdict = AxisVerdict.FITS
    if any(one.fit is Fit.JIT for one in fits):
        verdict = AxisVerdict.FITS_WITH_NOTE
        notes.append("the driver compiles it at the first start, which is slow; libraries beside torch may lack code")
    if build.evidence == "inferred":
        verdict = AxisVerdict.FITS_WITH_NOTE
        notes.append("the list of this build is inferred, not read")
    elif build.evidence == "report":
        verdict = AxisVerdict.FITS_WITH_NOTE
        notes.append("the list of this build rests on what users report, not on a reading")
    if _GB10 in facts.capabilities and build.torch.startswith(("2.9.", "2.10.")):
        notes.append("torch 2.9 and 2.10 warn of 12.1 all the same, without need (a minimum and maximum test)")
    if _turing_magma(build, facts):
        verdict = AxisVerdict.FITS_WITH_NOTE
        notes.append(
            "MAGMA inside cu13x builds has almost no 7.5 code: some torch.linalg calls may fail (inferred, not run)"
        )
    return Axis(axis="coverage", verdict=verdict, reason="; ".join(notes), source=build.source)


def _by(build: TorchBuild, fit: DeviceFit) -> str:
    """Which target serves a device: ``sm_60 code runs on 6.1 (GTX 1080 Ti)``."""
    for target in sorted(build.targets, key=lambda one: (one.kind is CodeKind.SASS, one.number), reverse=True):
        if runs(target, fit.compute_capability, runtime=build.runtime) is fit.fit:
            how = "runs on" if fit.fit is Fit.NATIVE else "is compiled for"
            return f"{target} {how} {fit.compute_capability} ({fit.device})"
    return f"{fit.compute_capability} ({fit.device})"


def _span(build: TorchBuild) -> str:
    return " ".join(str(one) for one in build.targets)


def _turing_magma(build: TorchBuild, facts: Facts) -> bool:
    runtime = build.runtime
    return runtime is not None and runtime.major >= 13 and _TURING in facts.capabilities and build.arch == "x86_64"


def _publication(build: TorchBuild) -> Axis:
    if build.publication == "unverified":
        return Axis(
            axis="publication",
            verdict=AxisVerdict.UNKNOWN,
            reason=f"that {build.label} was published for {build.os} on {build.arch} is not confirmed",
            source=build.source,
        )
    reason = {
        "seen": "seen on PyPI",
        "stated": "named in the release's own tables; its index was not opened",
        "unprobed": "named in the build scripts alone; its index was not opened",
    }[build.publication]
    verdict = AxisVerdict.FITS_WITH_NOTE if build.publication == "unprobed" else AxisVerdict.FITS
    return Axis(axis="publication", verdict=verdict, reason=reason, source=build.source)
