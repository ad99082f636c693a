"""Findings about the machine and the variables around the program. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ongpu.doctor.report import Finding, Weight
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.build import AxisVerdict, Decision
from ongpu.domain.coverage import CodeVerdict, TorchCoverage
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.domain.visible import visible_devices

_OF_THE_MACHINE: Final = frozenset({"platform", "device", "modules", "generation"})
_TITLE: Final = {
    Cause.DRIVER_TOO_OLD: "the driver is too old for this GPU",
    Cause.DRIVER_TOO_NEW: "the driver no longer serves this GPU",
    Cause.DRIVER_BROKEN: "the driver does not work with this GPU",
    Cause.NO_GPU_VISIBLE: "no GPU is visible",
    Cause.HARDWARE_FAULT: "the GPU has a fault",
    Cause.DEVICE_BUSY: "the GPU is busy",
    Cause.CUDA_VERSION_MISMATCH: "the CUDA libraries do not match the driver",
    Cause.PYTHON_ENV: "no build of PyTorch is made for this system",
}
_INJECTED: Final = ("CUDA_INJECTION64_PATH", "CUDA_INJECTION32_PATH", "NSIGHT_CUDA_DEBUGGER", "LD_PRELOAD")
_OFF: Final = frozenset({"", "0"})


def machine_findings(machine: Machine, decision: Decision | None) -> Iterator[Finding]:
    """Why no GPU can be used, whatever torch is installed: the nearest fact first, else the planner's axes."""
    blocked = diagnose_blocked(machine)
    if blocked is not None:
        yield Finding(
            weight=Weight.BLOCKS,
            cause=blocked.cause,
            title=_TITLE.get(blocked.cause, blocked.cause.value),
            reason=blocked.reason,
            next_step=blocked.next_step,
            lines=blocked.lines,
        )
        return
    if decision is None:
        return
    for axis in decision.axes:
        if axis.axis not in _OF_THE_MACHINE:
            continue
        if axis.verdict is AxisVerdict.REFUSES:
            cause = axis.cause or Cause.UNDETERMINED
            unknown = cause is Cause.UNDETERMINED
            yield Finding(
                weight=Weight.UNKNOWN if unknown else Weight.BLOCKS,
                cause=cause,
                title=_TITLE.get(cause, "the GPU is not known"),
                reason=f"{axis.reason}.",
                next_step=decision.next_step,
                lines=(f"source: {axis.source}",),
            )
        elif axis.verdict is AxisVerdict.UNKNOWN:
            yield Finding(weight=Weight.NOTES, cause=None, title=axis.axis, reason=f"{axis.reason}.")


def variable_findings(machine: Machine, coverages: tuple[TorchCoverage, ...]) -> Iterator[Finding]:
    """Variables that change what the GPU does. Those that hide every GPU are the machine's findings."""
    variables = dict(machine.variables)
    seen = visible_devices(machine)
    if seen.devices and (not seen.certain or len(seen.devices) < len(machine.devices)):
        yield Finding(
            weight=Weight.NOTES,
            cause=None,
            title="a part of the GPUs is hidden" if seen.certain else "which GPU is seen is not certain",
            reason=f"{seen.reason}: judged for {', '.join(one.name for one in seen.devices)}.",
        )
    if variables.get("CUDA_FORCE_PTX_JIT", "") not in _OFF:
        has_ptx = bool(coverages) and all(any(t.kind.value == "compute" for t in one.targets) for one in coverages)
        yield Finding(
            weight=Weight.WARNS if has_ptx else Weight.BLOCKS,
            cause=None if has_ptx else Cause.WHEEL_NO_ARCH,
            title="CUDA_FORCE_PTX_JIT forbids machine code",
            reason="The variable makes the driver compile PTX in place of machine code"
            + (", at every first start." if has_ptx else ", and the installed torch carries no PTX."),
            next_step="Unset CUDA_FORCE_PTX_JIT.",
        )
    if variables.get("CUDA_DISABLE_PTX_JIT", "") not in _OFF and any(
        one.verdict is CodeVerdict.JIT for one in coverages
    ):
        yield Finding(
            weight=Weight.BLOCKS,
            cause=Cause.WHEEL_NO_ARCH,
            title="CUDA_DISABLE_PTX_JIT forbids the only code there is",
            reason="For this GPU torch carries PTX alone, and the variable refuses to compile it.",
            next_step="Unset CUDA_DISABLE_PTX_JIT.",
        )
    if variables.get("CUDA_LAUNCH_BLOCKING", "") not in _OFF:
        yield Finding(
            weight=Weight.WARNS,
            cause=None,
            title="CUDA_LAUNCH_BLOCKING is set",
            reason="Every kernel launch waits for the GPU: right for finding a fault, several times slower to train.",
            next_step="Unset CUDA_LAUNCH_BLOCKING.",
        )
    injected = [name for name in _INJECTED if variables.get(name)]
    if injected:
        yield Finding(
            weight=Weight.NOTES,
            cause=None,
            title="libraries are put into the program",
            reason="; ".join(f"{name}={variables[name]}" for name in injected)
            + ": a profiler or a wrapper may change what is measured, or fail by itself.",
        )
