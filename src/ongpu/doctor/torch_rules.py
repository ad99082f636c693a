"""Findings about the installed torch: is it there, is it a CUDA build, does the driver serve it, has it code. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ongpu.catalog import Catalog
from ongpu.doctor.report import DeviceReport, Finding, InstalledCode, Weight
from ongpu.domain.arch import CodeKind
from ongpu.domain.build import AxisVerdict, Decision, DecisionKind, TorchBuild
from ongpu.domain.coverage import CodeVerdict, TorchCoverage
from ongpu.domain.environment import Environment, InstalledTorch
from ongpu.domain.machine import Device, Machine
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan.build_axes import judge
from ongpu.plan.facts import gather
from ongpu.plan.request import Request, python_tag
from ongpu.scan import judge_torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the planner says would fit, as the sentence that ends a finding."""

    next_step: str

    @classmethod
    def of(cls, decision: Decision | None) -> Advice:
        """The command of a decision; its own next step where nothing prebuilt fits."""
        if decision is None:
            return cls(next_step="Run `ongpu probe`, and make the GPU visible first.")
        if decision.decision is DecisionKind.PREBUILT and decision.command:
            return cls(
                next_step=f"Make a fresh environment with `ongpu install`, or type: {' '.join(decision.command)}"
            )
        return cls(next_step=decision.next_step)


def torch_presence(environment: Environment, advice: Advice) -> Iterator[Finding]:
    """No torch, or one that cannot use an NVIDIA GPU."""
    torch = environment.torch
    if torch is None:
        yield Finding(
            weight=Weight.BLOCKS,
            cause=Cause.PYTHON_ENV,
            title="torch is not installed",
            reason=f"{environment.prefix} has no torch.",
            next_step=advice.next_step,
        )
    elif torch.hip or torch.xpu:
        vendor = f"AMD GPUs (ROCm {torch.hip})" if torch.hip else "Intel GPUs"
        yield Finding(
            weight=Weight.BLOCKS,
            cause=Cause.CPU_ONLY_TORCH,
            title="torch is built for another vendor's GPUs",
            reason=f"torch {torch.version} is built for {vendor} and cannot use an NVIDIA GPU.",
            next_step=advice.next_step,
        )
    elif torch.cpu_only:
        yield Finding(
            weight=Weight.BLOCKS,
            cause=Cause.CPU_ONLY_TORCH,
            title="torch is a CPU-only build",
            reason=f"torch {torch.version} was built without CUDA: whatever the driver, it trains on the CPU.",
            next_step=advice.next_step,
            lines=(f"{torch.path}/version.py: cuda = None",),
        )


def driver_serves(
    machine: Machine, environment: Environment, coverages: Sequence[TorchCoverage], advice: Advice, *, catalog: Catalog
) -> Iterator[Finding]:
    """The driver against the CUDA runtime of the installed torch, by the planner's own rule."""
    torch = environment.torch
    if torch is None or torch.runtime is None or torch.cpu_only:
        return
    facts = gather(machine, catalog=catalog, request=Request(python=known_python(environment)))
    build = _as_build(torch, machine, coverages)
    candidate = judge(build, facts, catalog=catalog, request=Request(channel="any"), requirement=None)
    axis = candidate.axis("driver")
    match axis.verdict:
        case AxisVerdict.REFUSES:
            yield Finding(
                weight=Weight.BLOCKS,
                cause=axis.cause or Cause.DRIVER_TOO_OLD,
                title="the driver is too old for this torch",
                reason=f"torch {torch.version} was built with CUDA {torch.runtime}: {axis.reason}.",
                next_step=f"Take a torch that this driver serves. {advice.next_step}"
                if any(one.generation is not None and one.generation.last_branch for one in facts.devices)
                else f"Update the NVIDIA driver; or keep it, and take a torch that it serves. {advice.next_step}",
                lines=(f"source: {axis.source}",),
            )
        case AxisVerdict.UNKNOWN:
            yield Finding(
                weight=Weight.UNKNOWN,
                cause=Cause.UNDETERMINED,
                title="the driver could not be read",
                reason=f"{axis.reason}, and which driver is installed is not known.",
                next_step="Run `nvidia-smi`, and read which driver it names.",
            )
        case AxisVerdict.FITS_WITH_NOTE:
            yield Finding(weight=Weight.NOTES, cause=None, title="driver", reason=f"{axis.reason}.")
        case AxisVerdict.FITS:
            pass


def torch_code(
    machine: Machine, environment: Environment, code: InstalledCode, devices: Sequence[Device], *, catalog: Catalog
) -> tuple[tuple[DeviceReport, ...], tuple[TorchCoverage, ...]]:
    """How torch's files meet each visible GPU."""
    facts = gather(machine, catalog=catalog, request=Request(python=known_python(environment)))
    capability = {one.index: one.capability for one in facts.devices}
    torch = environment.torch
    reports: list[DeviceReport] = []
    coverages: list[TorchCoverage] = []
    for device in devices:
        known = capability.get(machine.devices.index(device)) if device in machine.devices else None
        known = device.compute_capability or known
        if known is None or torch is None:
            reason = "its compute capability is not known" if known is None else "torch is not installed"
            reports.append(
                DeviceReport(name=device.name, compute_capability=known, torch=CodeVerdict.UNKNOWN, reason=reason)
            )
            continue
        coverage = judge_torch(
            code.torch,
            known,
            version=torch.version,
            cuda=str(torch.runtime) if torch.runtime else None,
            hip=torch.hip,
            folder=torch.path,
            driver_cuda=facts.driver_cuda,
        )
        coverages.append(coverage)
        reports.append(
            DeviceReport(name=device.name, compute_capability=known, torch=coverage.verdict, reason=coverage.reason)
        )
    return tuple(reports), tuple(coverages)


def code_findings(
    environment: Environment, reports: Sequence[DeviceReport], coverages: Sequence[TorchCoverage], advice: Advice
) -> Iterator[Finding]:
    """What the coverage of torch means. One GPU without code among several warns: the others train."""
    torch = environment.torch
    if torch is None or torch.cpu_only or torch.hip or torch.xpu:
        return
    without = [one for one in reports if one.torch is CodeVerdict.NONE]
    if without:
        all_of_them = len(without) == len(reports)
        names = ", ".join(dict.fromkeys(f"{one.name} ({one.compute_capability})" for one in without))
        reason = f"{without[0].reason}."
        step = advice.next_step
        if not all_of_them:
            step = f"Hide it with CUDA_VISIBLE_DEVICES, or take a torch that has code for all of them. {step}"
        yield Finding(
            weight=Weight.BLOCKS if all_of_them else Weight.WARNS,
            cause=Cause.WHEEL_NO_ARCH,
            title=f"torch has no code for {names}",
            reason=reason,
            next_step=step,
        )
    for coverage in {one.reason: one for one in coverages}.values():
        if coverage.verdict is CodeVerdict.UNKNOWN:
            yield Finding(
                weight=Weight.UNKNOWN if coverage.cause is None else Weight.BLOCKS,
                cause=coverage.cause or Cause.UNDETERMINED,
                title="torch's CUDA library could not be read",
                reason=f"{coverage.reason}.",
                next_step=f"Install torch again. {advice.next_step}",
            )
        elif coverage.verdict is CodeVerdict.PARTIAL:
            yield Finding(
                weight=Weight.WARNS,
                cause=None,
                title=f"a part of torch has no code for {coverage.device}",
                reason=f"{coverage.reason}. What is called from there fails with 'no kernel image is available'; the "
                "rest of torch is not concerned.",
                next_step="Avoid those calls (for torch.linalg: `torch.backends.cuda.preferred_linalg_library"
                "('cusolver')`), or take another build."
                if any("linalg" in name for name in coverage.without)
                else None,
            )
        elif coverage.verdict is CodeVerdict.JIT:
            yield Finding(
                weight=Weight.WARNS,
                cause=None,
                title=f"torch is compiled for {coverage.device} at first use",
                reason=f"{coverage.reason}. The first start takes minutes, and libraries beside torch may lack code.",
                next_step=f"A build with machine code for it is better. {advice.next_step}",
            )


def _as_build(torch: InstalledTorch, machine: Machine, coverages: Sequence[TorchCoverage]) -> TorchBuild:
    targets = coverages[0].targets if coverages else ()
    runtime = torch.runtime
    assert runtime is not None
    return TorchBuild(
        torch=torch.public_version,
        channel="stable",
        cuda_tag=f"cu{runtime.major}{runtime.minor}",
        os=machine.os,
        arch=machine.arch,
        pythons=(),
        targets=tuple(target for target in targets if target.kind is not CodeKind.LTO),
        pypi_default=False,
        source="read from the installed files",
        evidence="binary",
        publication="seen",
    )


def known_python(environment: Environment) -> str | None:
    """The environment's Python as the planner writes it; ``None`` where no build was ever made for such a version."""
    try:
        return python_tag(environment.python.version, free_threaded=environment.python.free_threaded)
    except UsageError:
        return None
