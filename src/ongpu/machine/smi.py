"""``nvidia-smi`` as text for a person, and the same reading taken from NVML where the command is missing.

The text is kept, never parsed: it is localised, changes between drivers, and any program may bear the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ongpu.errors import DoorError
from ongpu.machine.nvml import Nvml, NvmlDevice, ProcessMemory
from ongpu.machine.process import Processes

TEXT_LIMIT_BYTES = 1 << 20
# Where the command is when the search path lacks it: WSL, and Windows.
_PLACES = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")


def nvidia_smi_text(
    processes: Processes, *, environment: Mapping[str, str] | None = None, timeout_s: float = 20
) -> str:
    """What ``nvidia-smi`` printed, at most 1 MiB of it.

    :raises DoorError: door ``process``; code ``not-found``, ``timeout``, or ``failed`` with its last line.
    """
    missing: DoorError | None = None
    # Windows looks into the current folder first: there, the driver's own place comes before that.
    system = (environment or {}).get("SYSTEMROOT")
    for place in ((f"{system}\\System32\\nvidia-smi.exe",) if system else ()) + _PLACES:
        try:
            done = processes.run((place,), timeout_s=timeout_s, env=environment)
        except DoorError as error:
            missing = missing or error
            continue
        if done.timed_out:
            raise DoorError(door="process", code="timeout", reason=f"nvidia-smi did not end within {timeout_s:g} s")
        if done.status != 0:
            said = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace").strip().splitlines()[-1:]
            reason = f"nvidia-smi ended with status {done.status}: {said[0][:300] if said else 'it said nothing'}"
            raise DoorError(door="process", code="failed", reason=reason)
        text = done.stdout[:TEXT_LIMIT_BYTES].decode("utf-8", "replace")
        cut = len(done.stdout) + done.dropped_bytes - TEXT_LIMIT_BYTES
        return text + (f"\n[{cut} more bytes were left out]\n" if cut > 0 else "")
    assert missing is not None
    raise missing


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One GPU at one moment. What could not be read is the code that NVML gave instead."""

    device: NvmlDevice
    memory_used_bytes: int | str
    utilization_percent: int | str
    power_mw: int | str
    processes: tuple[ProcessMemory, ...] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlReading:
    """Every GPU at one moment."""

    kernel_mode: str
    devices: tuple[DeviceReading, ...]


def read_nvml(nvml: Nvml) -> NvmlReading:
    """Ask NVML for everything the renderer shows.

    :raises DoorError: only where the driver version or the device list cannot be read.
    """
    return NvmlReading(
        kernel_mode=nvml.kernel_mode_version(), devices=tuple(_read(nvml, device) for device in nvml.devices())
    )


def _read(nvml: Nvml, device: NvmlDevice) -> DeviceReading:
    uuid = device.uuid
    readings: list[int | str] = []
    for call in (nvml.memory_used, nvml.utilization, nvml.power_mw):
        try:
            readings.append(call(uuid))
        except DoorError as error:
            readings.append(error.code)
    try:
        listed: tuple[ProcessMemory, ...] | str = nvml.processes(uuid)
    except DoorError as error:
        listed = error.code
    return DeviceReading(
        device=device,
        memory_used_bytes=readings[0],
        utilization_percent=readings[1],
        power_mw=readings[2],
        processes=listed,
    )


def render(reading: NvmlReading, *, taken: str) -> str:
    """The reading as text. :param taken: when it was taken, in words for the first line."""
    lines = [
        f"Read from NVML by ongpu (not the output of nvidia-smi), {taken}",
        f"kernel-mode driver version: {reading.kernel_mode}",
        f"GPUs: {len(reading.devices)}",
    ]
    for one in reading.devices:
        device = one.device
        lines += [
            "",
            f"GPU {device.index}: {device.name} ({device.uuid})",
            f"  PCI bus id:          {device.pci_bus_id or 'not readable'}",
            f"  compute capability:  {device.compute_capability or 'not readable'}",
            f"  memory used / total: {_mib(one.memory_used_bytes)} / {_mib(device.memory_bytes)}",
            f"  SM utilization:      {_with(one.utilization_percent, '%')}",
            f"  power draw:          {_watt(one.power_mw)}",
        ]
        if isinstance(one.processes, str):
            lines.append(f"  compute processes:   not readable ({one.processes})")
        elif not one.processes:
            lines.append("  compute processes:   none listed")
        else:
            lines.append("  compute processes:")
            lines += [f"    pid {entry.pid}: {_mib(entry.used_bytes)}" for entry in one.processes]
    return "\n".join(lines) + "\n"


def _mib(value: int | str | None) -> str:
    if isinstance(value, int):
        return f"{value / (1 << 20):,.0f} MiB"
    return "not readable" if value is None else f"not readable ({value})"


def _with(value: int | str, unit: str) -> str:
    return f"{value} {unit}" if isinstance(value, int) else f"not readable ({value})"


def _watt(value: int | str) -> str:
    return f"{value / 1000:.1f} W" if isinstance(value, int) else f"not readable ({value})"
