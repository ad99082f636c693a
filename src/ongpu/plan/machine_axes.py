"""The axes that no choice of a build can change: is there a GPU, does its driver know it, are the modules right."""

from __future__ import annotations

from ongpu.catalog import Catalog
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.build import Axis, AxisVerdict
from ongpu.domain.machine import Modules
from ongpu.domain.verdict import Cause
from ongpu.plan.facts import Facts, KnownDevice

_OPEN_SOURCE = "NVIDIA Linux driver README, chapter Open Linux Kernel Modules"


def machine_axes(facts: Facts, *, catalog: Catalog) -> tuple[Axis, ...]:
    """Judge the machine itself: ``platform``, ``device``, ``modules``, ``generation``."""
    platform = _platform(facts)
    device = _device(facts, catalog=catalog)
    if AxisVerdict.REFUSES in {platform.verdict, device.verdict}:
        return (platform, device)
    return (platform, device, _modules(facts), _generation(facts, catalog=catalog))


def _platform(facts: Facts) -> Axis:
    machine = facts.machine
    source = "builds.csv: no published build for any other platform"
    if machine.os == "macos":
        return Axis(
            axis="platform",
            verdict=AxisVerdict.REFUSES,
            reason="no NVIDIA GPU works under macOS, and PyTorch has no CUDA build for it",
            source=source,
            cause=Cause.NO_GPU_VISIBLE,
        )
    if (machine.os, machine.arch) not in {("linux", "x86_64"), ("linux", "aarch64"), ("windows", "x86_64")}:
        return Axis(
            axis="platform",
            verdict=AxisVerdict.REFUSES,
            reason=f"no CUDA build of PyTorch is published for {machine.os} on {machine.arch}",
            source=source,
            cause=Cause.PYTHON_ENV,
        )
    if machine.os == "linux" and "alpine" in (machine.os_release or "").lower():
        return Axis(
            axis="platform",
            verdict=AxisVerdict.REFUSES,
            reason=f"{machine.os_release} has musl, and every Linux build of PyTorch needs glibc",
            source="PyPI file names of torch: manylinux only",
            cause=Cause.PYTHON_ENV,
        )
    wsl = ", under WSL: the Linux wheel with the Windows host's driver" if machine.wsl else ""
    return Axis(axis="platform", verdict=AxisVerdict.FITS, reason=f"{machine.os} on {machine.arch}{wsl}", source=source)


def _device(facts: Facts, *, catalog: Catalog) -> Axis:
    machine = facts.machine
    if not facts.devices:
        return _no_device(facts)
    unknown = [one.label for one in facts.devices if one.capability is None]
    if unknown:
        return Axis(
            axis="device",
            verdict=AxisVerdict.REFUSES,
            reason=f"the compute capability of {', '.join(unknown)} is not known, neither to the driver nor to the "
            f"catalog of {catalog.date}",
            source="gpus.csv",
            cause=Cause.UNDETERMINED,
        )
    reason = "; ".join(one.label for one in facts.devices)
    source = "a description" if machine.simulated else "the driver (NVML), else gpus.csv"
    seen = machine.cuda_visible
    if seen is not None and len(seen) < len(facts.devices):
        setting = dict(machine.variables).get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES={setting}" if setting is not None else "something hides the rest"
        return Axis(
            axis="device",
            verdict=AxisVerdict.FITS_WITH_NOTE,
            reason=f"{reason}; CUDA sees {len(seen)} of {len(facts.devices)} here ({why}), the choice is for all",
            source=source,
        )
    return Axis(axis="device", verdict=AxisVerdict.FITS, reason=reason, source=source)


def _no_device(facts: Facts) -> Axis:
    found = diagnose_blocked(facts.machine)
    lines = f" ({found.lines[0]})" if found and found.lines else ""
    return Axis(
        axis="device",
        verdict=AxisVerdict.REFUSES,
        reason=f"{found.reason.rstrip('.')}{lines}" if found else "no NVIDIA GPU was found",
        source="what was read of the machine",
        cause=found.cause if found else Cause.NO_GPU_VISIBLE,
    )


def _modules(facts: Facts) -> Axis:
    machine = facts.machine
    if machine.os != "linux" or machine.wsl:
        return Axis(
            axis="modules",
            verdict=AxisVerdict.FITS,
            reason="kernel-module flavors exist on Linux only",
            source=_OPEN_SOURCE,
        )
    need_open = _needing(facts, "open")
    need_proprietary = _needing(facts, "proprietary")
    if need_open and need_proprietary:
        return Axis(
            axis="modules",
            verdict=AxisVerdict.REFUSES,
            reason=f"{_labels(need_open)} needs the open kernel modules, {_labels(need_proprietary)} the proprietary "
            "ones; a Linux machine loads one kind, so they cannot run together, and a mask does not help",
            source=_OPEN_SOURCE,
            cause=Cause.DRIVER_BROKEN,
        )
    flavor = machine.driver.modules
    open_only = facts.branch is not None and facts.branch.branch >= 615
    if need_open and flavor is Modules.PROPRIETARY:
        return _wrong_flavor(need_open, has="proprietary", needs="open")
    if need_proprietary and (flavor is Modules.OPEN or open_only):
        return _wrong_flavor(need_proprietary, has="open", needs="proprietary")
    if not need_open and not need_proprietary:
        return Axis(
            axis="modules", verdict=AxisVerdict.FITS, reason="either kind serves these GPUs", source=_OPEN_SOURCE
        )
    wanted = "open" if need_open else "proprietary"
    if flavor is Modules.UNKNOWN:
        return Axis(
            axis="modules",
            verdict=AxisVerdict.FITS_WITH_NOTE,
            reason=f"flavor not known; {_labels(need_open or need_proprietary)} needs the {wanted} kernel modules",
            source=_OPEN_SOURCE,
        )
    return Axis(axis="modules", verdict=AxisVerdict.FITS, reason=f"{wanted} modules, as needed", source=_OPEN_SOURCE)


def _wrong_flavor(devices: list[KnownDevice], *, has: str, needs: str) -> Axis:
    return Axis(
        axis="modules",
        verdict=AxisVerdict.REFUSES,
        reason=f"the {has} kernel modules are loaded and {_labels(devices)} needs the {needs} ones: install that "
        "flavor of the driver",
        source=_OPEN_SOURCE,
        cause=Cause.DRIVER_BROKEN,
    )


def _needing(facts: Facts, modules: str) -> list[KnownDevice]:
    return [one for one in facts.devices if one.generation is not None and one.generation.modules == modules]


def _labels(devices: list[KnownDevice]) -> str:
    return " and ".join(dict.fromkeys(one.label for one in devices))


def _generation(facts: Facts, *, catalog: Catalog) -> Axis:
    """Whether the driver branch knows every GPU: not yet, still, or no longer."""
    rows = [(one, one.generation) for one in facts.devices]
    unknown = [one.label for one, row in rows if row is None]
    if unknown:
        return Axis(
            axis="generation",
            verdict=AxisVerdict.UNKNOWN,
            reason=f"the catalog of {catalog.date} does not know which drivers serve {', '.join(unknown)}",
            source="generations.csv",
        )
    bounded = [(one, row) for one, row in rows if row is not None]
    first = max((row.first_branch or 0 for _, row in bounded), default=0)
    last = min((row.last_branch or 10_000 for _, row in bounded), default=10_000)
    source = "; ".join(dict.fromkeys(row.source for _, row in bounded))
    if first > last:
        newest = next(one for one, row in bounded if (row.first_branch or 0) == first)
        oldest = next(one for one, row in bounded if row.last_branch == last)
        return Axis(
            axis="generation",
            verdict=AxisVerdict.REFUSES,
            reason=f"no driver serves both: {newest.label} needs {first} or newer, {oldest.label} at most {last}",
            source=source,
            cause=Cause.DRIVER_TOO_NEW,
        )
    if facts.branch is None:
        if facts.driver is not None:
            return _too_old_for_all(facts, first=first, catalog=catalog, source=source)
        return Axis(
            axis="generation",
            verdict=AxisVerdict.FITS_WITH_NOTE if facts.machine.simulated else AxisVerdict.UNKNOWN,
            reason=f"the driver is not known; these GPUs need {_span(first, last)}",
            source=source,
        )
    branch = facts.branch.branch
    if branch > last:
        dropped = [one for one, row in bounded if row.last_branch is not None and branch > row.last_branch]
        return Axis(
            axis="generation",
            verdict=AxisVerdict.REFUSES,
            reason=f"driver {_driver(facts)} (branch {branch}) dropped {_labels(dropped)}: {last} is the last for it",
            source=source,
            cause=Cause.DRIVER_TOO_NEW,
        )
    if branch < first:
        late = [one for one, row in bounded if (row.first_branch or 0) > branch]
        return Axis(
            axis="generation",
            verdict=AxisVerdict.REFUSES,
            reason=f"driver {_driver(facts)} (branch {branch}) is older than {_labels(late)}: {first} was the first",
            source=source,
            cause=Cause.DRIVER_TOO_OLD,
        )
    return _within(facts, catalog=catalog, source=source, span=_span(first, last))


def _within(facts: Facts, *, catalog: Catalog, source: str, span: str) -> Axis:
    late = []
    for one in facts.devices:
        row = catalog.known_gpu(one.name)
        if row is None or row.first_driver_linux is None or facts.driver is None or facts.windows_driver:
            continue
        if facts.driver < row.first_driver_linux:
            late.append(f"{one.name} is first listed at {'.'.join(f'{part:02d}' for part in row.first_driver_linux)}")
    if late:
        return Axis(
            axis="generation",
            verdict=AxisVerdict.FITS_WITH_NOTE,
            reason=f"driver {_driver(facts)} is of the right branch, but may be too early: {'; '.join(late)}",
            source="NVIDIA/open-gpu-kernel-modules README.md, by release",
        )
    return Axis(
        axis="generation",
        verdict=AxisVerdict.FITS,
        reason=f"driver {_driver(facts)} serves these GPUs ({span})",
        source=source,
    )


def _too_old_for_all(facts: Facts, *, first: int, catalog: Catalog, source: str) -> Axis:
    oldest = min(one.branch for one in catalog.branches)
    return Axis(
        axis="generation",
        verdict=AxisVerdict.REFUSES,
        reason=f"driver {_driver(facts)} is older than branch {max(first, oldest)}, the first with a PyTorch build "
        "for these GPUs",
        source=source,
        cause=Cause.DRIVER_TOO_OLD,
    )


def _driver(facts: Facts) -> str:
    return facts.driver_text or f"for CUDA {facts.driver_cuda}"


def _span(first: int, last: int) -> str:
    low = f"branch {first} or newer" if first else "any older branch"
    if last < 10_000:
        return f"branches {first} to {last}" if first else f"branch {last} or older"
    return low if first else "any branch"
