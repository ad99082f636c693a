"""From what files carry to what runs on a device: per file, per package, over all. Pure.

The unit is the container, not the file and not the package: a kernel lives in one container, and a union over a
library or a wheel hides that another has nothing. Three gaps are no fault, and are told apart: containers a library
dispatches to for a few chips only, kernels compiled out for a target (their cubin is empty), and variants of which
one alone is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, Fit, RuntimeVersion, runs
from ongpu.domain.coverage import (
    BinaryCoverage,
    BinaryFit,
    CodeVerdict,
    ContainerGroup,
    DeviceCoverage,
    PackageCoverage,
    Role,
    ScanReport,
    ScanVerdict,
)
from ongpu.scan.isa import cuda_of_isa
from ongpu.scan.notes import compiles_at_run_time, note_for
from ongpu.scan.variants import loaded_variants

# One GPU for each generation somebody may ask about, for a table where no GPU was named.
GENERATIONS: Final = (
    ("GTX 10", ComputeCapability(6, 1)),
    ("V100", ComputeCapability(7, 0)),
    ("T4, RTX 20", ComputeCapability(7, 5)),
    ("A100", ComputeCapability(8, 0)),
    ("RTX 30", ComputeCapability(8, 6)),
    ("L4, RTX 40", ComputeCapability(8, 9)),
    ("H100", ComputeCapability(9, 0)),
    ("B200", ComputeCapability(10, 0)),
    ("RTX 50", ComputeCapability(12, 0)),
)
_WORST_FIRST: Final = (
    CodeVerdict.NONE,
    CodeVerdict.PARTIAL,
    CodeVerdict.UNKNOWN,
    CodeVerdict.JIT,
    CodeVerdict.NATIVE,
    CodeVerdict.NO_CODE,
)
_NAMED_TARGETS: Final = 12
# NVIDIA's own libraries choose a kernel for the device among many written for single chips, so a container without
# code for a device is how they are made (read in cuBLAS, cuBLASLt, cuDNN, cuFFT, cuSPARSE, cuTENSOR, NCCL).
_DISPATCHING: Final = re.compile(
    r"(lib)?(cublas|cudnn|cufft|curand|cusolver|cusparse|cutensor|nccl|npp|nvjpeg|cuvs|nvshmem|torch_nvshmem|cuquantum)",
    re.IGNORECASE,
)


def judge_coverage(
    report: ScanReport,
    devices: Sequence[ComputeCapability],
    *,
    runtime: RuntimeVersion | None = None,
    driver_cuda: RuntimeVersion | None = None,
) -> ScanVerdict:
    """Judge every package of a report for every device.

    :param runtime: the CUDA runtime version of the environment's torch; it chooses among variants that are loaded
        by version (bitsandbytes), and lifts the Jetson exceptions from 13.2 on.
    :param driver_cuda: the CUDA driver version; PTX newer than it cannot be compiled. Unknown: not judged.
    """
    packages = tuple(
        replace(
            package,
            fits=tuple(judge_package(package, device, runtime=runtime, driver_cuda=driver_cuda) for device in devices),
            note=note_for(package),
        )
        for package in report.packages
    )
    return ScanVerdict(
        devices=tuple(devices),
        packages=packages,
        overall=tuple(_overall(packages, index, device) for index, device in enumerate(devices)),
        runtime=runtime,
        driver_cuda=driver_cuda,
        problems=report.problems,
    )


def failing(verdict: ScanVerdict, *, fail_on: CodeVerdict) -> tuple[tuple[str, DeviceCoverage], ...]:
    """The packages that are as bad as ``fail_on`` or worse, for a CI gate: ``NONE`` < ``PARTIAL`` < ``JIT``.

    What could not be read counts from ``PARTIAL`` on: unknown is not passed.
    """
    bad = {
        CodeVerdict.NONE: {CodeVerdict.NONE},
        CodeVerdict.PARTIAL: {CodeVerdict.NONE, CodeVerdict.PARTIAL, CodeVerdict.UNKNOWN},
        CodeVerdict.JIT: {CodeVerdict.NONE, CodeVerdict.PARTIAL, CodeVerdict.UNKNOWN, CodeVerdict.JIT},
    }.get(fail_on, {CodeVerdict.NONE})
    return tuple((package.name, fit) for package in verdict.packages for fit in package.fits if fit.verdict in bad)


def judge_package(
    package: PackageCoverage,
    device: ComputeCapability,
    *,
    runtime: RuntimeVersion | None = None,
    driver_cuda: RuntimeVersion | None = None,
) -> DeviceCoverage:
    """How one package meets one device."""
    judged = [one for one in package.binaries if one.role is Role.RUNTIME]
    rocm = [one for one in judged if one.rocm]
    chosen, undecided = loaded_variants([one for one in judged if not one.rocm], device, runtime=runtime)
    fits = [judge_binary(one, device, runtime=runtime, driver_cuda=driver_cuda) for one in chosen]
    variant_fits = [
        [judge_binary(one, device, runtime=runtime, driver_cuda=driver_cuda) for one in group] for group in undecided
    ]
    fits.extend(_undecided(group) for group in variant_fits)
    with_code = [fit for fit in fits if fit.verdict is not CodeVerdict.NO_CODE]
    if not with_code:
        reason = "built for AMD GPUs (ROCm)" if rocm else "carries no precompiled CUDA code"
        return DeviceCoverage(device=device, verdict=CodeVerdict.NO_CODE, reason=reason)
    by_path = {one.path: one for one in chosen}
    missing = [fit for fit in with_code if fit.verdict is CodeVerdict.NONE]
    special = [fit for fit in missing if fit.path in by_path and _one_chip(by_path[fit.path])]
    covered = [fit for fit in with_code if fit.verdict in (CodeVerdict.NATIVE, CodeVerdict.JIT)]
    if covered and len(special) == len(missing):
        # Files built for one chip beside files that fit: the package picks them on that chip only.
        with_code = [fit for fit in with_code if fit not in special]
        missing = []
    worst = next(verdict for verdict in _WORST_FIRST if any(fit.verdict is verdict for fit in with_code))
    if worst is CodeVerdict.NONE and covered:
        worst = CodeVerdict.PARTIAL
    named = [fit for fit in with_code if fit.verdict is worst]
    if worst is CodeVerdict.PARTIAL:
        named = [fit for fit in with_code if fit.verdict in (CodeVerdict.NONE, CodeVerdict.PARTIAL)]
    if worst is CodeVerdict.NONE and compiles_at_run_time(package.name):
        reason = f"compiles for the device at run time; what is precompiled is for others ({_reason(named, len(fits))})"
        return DeviceCoverage(device=device, verdict=CodeVerdict.NO_CODE, reason=reason)
    without = tuple(fit.path for fit in named if worst in (CodeVerdict.NONE, CodeVerdict.PARTIAL, CodeVerdict.UNKNOWN))
    return DeviceCoverage(device=device, verdict=worst, reason=_reason(named, len(with_code)), without=without)


def judge_binary(
    binary: BinaryCoverage,
    device: ComputeCapability,
    *,
    runtime: RuntimeVersion | None = None,
    driver_cuda: RuntimeVersion | None = None,
) -> BinaryFit:
    """How one file meets one device."""
    groups = [group for group in binary.groups if group.targets]
    if not groups:
        return _without_kernels(binary, device)
    isas = {one.target: one.isa for one in binary.ptx}
    too_new = {
        target
        for target, isa in isas.items()
        if isa and driver_cuda is not None and _newer(cuda_of_isa(isa), driver_cuda)
    }
    fits = [_group_fit(group, device, runtime=runtime, too_new=too_new) for group in groups]
    native = sum(group.count for group, fit in zip(groups, fits, strict=True) if fit is Fit.NATIVE)
    jit = sum(group.count for group, fit in zip(groups, fits, strict=True) if fit is Fit.JIT)
    total = sum(group.count for group in groups)
    gaps = [group for group, fit in zip(groups, fits, strict=True) if fit is Fit.NONE]
    if native + jit == 0:
        blocked = [str(target) for target in sorted(too_new) if runs(target, device, runtime=runtime) is not Fit.NONE]
        reason = f"built for {_names(binary.targets)}: nothing that runs on {device}"
        if blocked:
            reason = (
                f"has for {device} only {', '.join(blocked)} (PTX ISA {binary.ptx_isa}), newer than the driver's CUDA "
                f"version {driver_cuda} can compile"
            )
        elif not binary.ptx and not binary.lto:
            reason += ", and no PTX to compile from"
        return BinaryFit(
            path=binary.path,
            device=device,
            verdict=CodeVerdict.NONE,
            reason=reason,
            containers=total,
            missing=total,
        )
    dispatching = _DISPATCHING.match(PurePath(binary.path).name) is not None
    missing = sum(
        group.count for group in gaps if not dispatching and not _is_dispatched(group, groups, device, runtime=runtime)
    )
    # Libraries keep databases of kernels outside the sections; how those meet the device does not lower the rest.
    main = [(group, fit) for group, fit in zip(groups, fits, strict=True) if not group.outside]
    main_jit = sum(group.count for group, fit in main if fit is Fit.JIT)
    main_native = sum(group.count for group, fit in main if fit is Fit.NATIVE)
    if missing:
        verdict = CodeVerdict.PARTIAL
        reason = f"{missing} of {total} containers have nothing for {device}"
    elif not native or (main_jit and not dispatching):
        verdict = CodeVerdict.JIT
        compiled = main_jit or jit
        reason = f"{compiled} of {total} containers are compiled from PTX or LTO-IR at first use"
        if binary.ptx_isa and driver_cuda is None:
            reason += f", by a driver of CUDA {cuda_of_isa(binary.ptx_isa) or 'unknown'} or newer"
    else:
        verdict = CodeVerdict.NATIVE
        reason = f"machine code for {device} in {main_native or native} of {total} containers"
    return BinaryFit(path=binary.path, device=device, verdict=verdict, reason=reason, containers=total, missing=missing)


def _group_fit(
    group: ContainerGroup, device: ComputeCapability, *, runtime: RuntimeVersion | None, too_new: set[CodeTarget]
) -> Fit:
    fits = {runs(target, device, runtime=runtime) for target in group.targets if target not in too_new}
    return next((fit for fit in Fit if fit in fits), Fit.NONE)


def _is_dispatched(
    group: ContainerGroup,
    groups: Sequence[ContainerGroup],
    device: ComputeCapability,
    *,
    runtime: RuntimeVersion | None,
) -> bool:
    """Whether it is no fault that this container has nothing for the device.

    It lies in a kernel database outside the sections; or its source was compiled out for the device; or it is
    made for half as many chips as the library's widest containers, or fewer, so that only those reach it.
    """
    if group.outside or any(runs(target, device, runtime=runtime) is not Fit.NONE for target in group.empty):
        return True
    widest = max(len(_chips(other.targets)) for other in groups)
    mine = len(_chips(group.targets))
    return mine < widest and mine <= max(2, widest // 2)


def _chips(targets: Iterable[CodeTarget]) -> set[int]:
    return {target.capability.number for target in targets}


def _one_chip(binary: BinaryCoverage) -> bool:
    kernels = [target for group in binary.groups for target in group.targets]
    return len(_chips(kernels)) == 1


def _without_kernels(binary: BinaryCoverage, device: ComputeCapability) -> BinaryFit:
    if binary.problems and not binary.has_code:
        verdict, reason = CodeVerdict.UNKNOWN, f"could not be read: {binary.problems[0]}"
    elif binary.targets:
        verdict, reason = CodeVerdict.NO_CODE, "its images hold no kernel, by their size"
    elif binary.relocatable:
        verdict, reason = CodeVerdict.NO_CODE, "holds link inputs only, which the driver does not load"
    else:
        verdict, reason = CodeVerdict.NO_CODE, "carries no precompiled CUDA code"
    return BinaryFit(path=binary.path, device=device, verdict=verdict, reason=reason)


def _undecided(group: list[BinaryFit]) -> BinaryFit:
    """One answer for variants of which one will be loaded, where it is not known which."""
    verdicts = {fit.verdict for fit in group}
    if len(verdicts) == 1:
        return group[0]
    names = ", ".join(PurePath(fit.path).name for fit in group if fit.verdict in (CodeVerdict.NATIVE, CodeVerdict.JIT))
    reason = (
        f"one of {len(group)} variants is loaded by the CUDA version; those with code for {group[0].device}: {names}"
    )
    return replace(group[0], verdict=CodeVerdict.UNKNOWN, reason=reason)


def _overall(packages: Sequence[PackageCoverage], index: int, device: ComputeCapability) -> DeviceCoverage:
    fits = [(package.name, package.fits[index]) for package in packages]
    for verdict in _WORST_FIRST:
        named = [(name, fit) for name, fit in fits if fit.verdict is verdict]
        if named:
            names = ", ".join(name for name, _ in named)
            return DeviceCoverage(
                device=device,
                verdict=verdict,
                reason=names,
                without=tuple(path for _, fit in named for path in fit.without),
            )
    return DeviceCoverage(device=device, verdict=CodeVerdict.NO_CODE, reason="nothing was found")


def _reason(named: Sequence[BinaryFit], total: int) -> str:
    first = named[0]
    more = f" (and {len(named) - 1} more of {total} files)" if len(named) > 1 else ""
    return f"{PurePath(first.path).name}: {first.reason}{more}"


def _names(targets: Sequence[CodeTarget]) -> str:
    names = [str(target) for target in targets if target.kind is not CodeKind.LTO] or [str(one) for one in targets]
    return ", ".join(names[:_NAMED_TARGETS]) + (", ..." if len(names) > _NAMED_TARGETS else "")


def _newer(needed: RuntimeVersion | None, driver: RuntimeVersion) -> bool:
    return needed is not None and (needed.major, needed.minor) > (driver.major, driver.minor)
