"""The driver against the CUDA runtime of a build: the floor, minor-version compatibility, and what it leaves out."""

from __future__ import annotations

from ongpu.catalog import Catalog, ToolkitRow, Version
from ongpu.domain.arch import Fit, RuntimeVersion
from ongpu.domain.build import Axis, AxisVerdict, DeviceFit, TorchBuild
from ongpu.domain.verdict import Cause
from ongpu.plan.facts import Facts, dotted

_UNIFIED = RuntimeVersion(major=13, minor=2)
_UNIFIED_SOURCE = "torch.cuda.DEVICE_REQUIREMENT_POST_JETSON_SBSA_UNIFICATION, read in torch 2.14.1"
_FORWARD_SOURCE = "NVIDIA CUDA Compatibility guide, forward compatibility"
_COMPAT_SOURCE = "CUDA 13.4 Update 1 release notes, section 2.2: minor-version compatibility"


def driver_axis(build: TorchBuild, facts: Facts, fits: tuple[DeviceFit, ...], *, catalog: Catalog) -> Axis:
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
    needed = dotted(floor)
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


def _at_least(one: RuntimeVersion, other: RuntimeVersion) -> bool:
    return (one.major, one.minor) >= (other.major, other.minor)


def _driver_text(facts: Facts) -> str:
    return facts.driver_text or f"one for CUDA {facts.driver_cuda}"
