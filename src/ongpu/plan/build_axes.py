"""The axes that a build decides: Python, glibc, the request, code for every GPU, the driver, publication.

Only builds for the machine's own system and CPU architecture come here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.catalog import Catalog, ToolkitRow, Version
from ongpu.domain.arch import CodeKind, ComputeCapability, Fit, RuntimeVersion, best_fit, runs
from ongpu.domain.build import Axis, AxisVerdict, DeviceFit, TorchBuild
from ongpu.domain.verdict import Cause
from ongpu.plan.facts import Facts
from ongpu.plan.request import Request, Requirement

_ORDER = tuple(AxisVerdict)
_TURING = ComputeCapability(7, 5)
_UNIFIED = RuntimeVersion(major=13, minor=2)
_UNIFIED_SOURCE = "torch.cuda.DEVICE_REQUIREMENT_POST_JETSON_SBSA_UNIFICATION, read in torch 2.14.1"
_FORWARD_SOURCE = "NVIDIA CUDA Compatibility guide, forward compatibility"
_COMPAT_SOURCE = "CUDA 13.4 Update 1 release notes, section 2.2: minor-version compatibility"


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
        _driver(build, facts, fits, catalog=catalog),
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
    needed = _dotted(row.glibc)
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
        reason=f"needs glibc {needed}; this system has {_dotted(facts.glibc)}",
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


def _driver(build: TorchBuild, facts: Facts, fits: tuple[DeviceFit, ...], *, catalog: Catalog) -> Axis:
    """The driver against the CUDA runtime: the floor, minor-version compatibility, and that PTX is outside it."""
    runtime = build.runtime
    rows = catalog.toolkits(runtime) if runtime else ()
    if runtime is None or not rows:
        return Axis(
            axis="driver", verdict=AxisVerdict.UNKNOWN, reason="no CUDA runtime is known", source="toolkits.csv"
        )
    jetson = _jetson(runtime, facts)
    if jetson is not None:
        return jetson
    floor = rows[0].compat_windows if facts.windows_driver else rows[0].compat_linux
    needed = _dotted(floor)
    if facts.driver is None and facts.driver_cuda is None:
        simulated = facts.machine.simulated
        return Axis(
            axis="driver",
            verdict=AxisVerdict.FITS_WITH_NOTE if simulated else AxisVerdict.UNKNOWN,
            reason=f"{build.cuda_tag} needs driver {needed} or newer",
            source=rows[0].source,
        )
    if not _reaches(facts, floor=floor, runtime=runtime):
        return Axis(
            axis="driver",
            verdict=AxisVerdict.REFUSES,
            reason=f"{build.cuda_tag} needs driver {needed} or newer; this is {_driver_text(facts)}",
            source=rows[0].source,
            cause=Cause.DRIVER_TOO_OLD,
        )
    if facts.driver is not None and facts.driver < floor:
        return Axis(
            axis="driver",
            verdict=AxisVerdict.FITS_WITH_NOTE,
            reason=f"the kernel-mode driver {_driver_text(facts)} is older than {needed}, but libcuda answers "
            f"{facts.driver_cuda}: a cuda-compat package, which serves data-center GPUs",
            source=_FORWARD_SOURCE,
        )
    if _whole(rows[0], runtime, facts):
        return Axis(
            axis="driver",
            verdict=AxisVerdict.FITS,
            reason=f"driver {_driver_text(facts)} is at least as new as CUDA {runtime}",
            source=rows[0].source,
        )
    if any(one.fit is Fit.JIT for one in fits):
        return Axis(
            axis="driver",
            verdict=AxisVerdict.REFUSES,
            reason=f"driver {_driver_text(facts)} is older than CUDA {runtime}, and minor-version compatibility does "
            "not cover the PTX this build has for the GPU",
            source=_COMPAT_SOURCE,
            cause=Cause.DRIVER_TOO_OLD,
        )
    return Axis(
        axis="driver",
        verdict=AxisVerdict.FITS_WITH_NOTE,
        reason=f"driver {_driver_text(facts)} is older than CUDA {runtime} but at least {needed}: minor-version "
        "compatibility (it does not cover PTX)",
        source=_COMPAT_SOURCE,
    )


def _jetson(runtime: RuntimeVersion, facts: Facts) -> Axis | None:
    """Server (SBSA) wheels run on Jetson Orin and Xavier from CUDA 13.2 on, and need a driver that knows that."""
    older = [one for one in facts.devices if one.generation and one.generation.integrated and one.capability]
    older = [one for one in older if one.capability and one.capability.major < 11]
    if not older or _at_least(runtime, _UNIFIED) is False:
        return None
    if facts.driver_cuda is None or _at_least(facts.driver_cuda, _UNIFIED):
        return None
    return Axis(
        axis="driver",
        verdict=AxisVerdict.REFUSES,
        reason=f"CUDA {runtime} code runs on {older[0].label} with JetPack 7.2 (CUDA driver 13.2) or newer; this is "
        f"{_driver_text(facts)}",
        source=_UNIFIED_SOURCE,
        cause=Cause.DRIVER_TOO_OLD,
    )


def _reaches(facts: Facts, *, floor: Version, runtime: RuntimeVersion) -> bool:
    by_version = facts.driver is not None and facts.driver >= floor
    # What libcuda answers counts as well: a cuda-compat package raises it above the kernel-mode driver.
    told = facts.machine.driver.cuda is not None or facts.driver is None
    by_cuda = told and facts.driver_cuda is not None and facts.driver_cuda.major >= runtime.major
    return by_version or by_cuda


def _whole(row: ToolkitRow, runtime: RuntimeVersion, facts: Facts) -> bool:
    least = row.min_windows if facts.windows_driver else row.min_linux
    if facts.driver is not None and least is not None and facts.driver >= least:
        return True
    return facts.driver_cuda is not None and _at_least(facts.driver_cuda, runtime)


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


def _at_least(one: RuntimeVersion, other: RuntimeVersion) -> bool:
    return (one.major, one.minor) >= (other.major, other.minor)


def _driver_text(facts: Facts) -> str:
    return facts.driver_text or f"one for CUDA {facts.driver_cuda}"


def _dotted(version: Version) -> str:
    return ".".join(f"{part:02d}" if index else str(part) for index, part in enumerate(version))
