"""Why no GPU of a machine can be used, from what the probe read: the first rule that holds, nearest fact first.

Causes and codes are NVIDIA's: NVML's return codes (nvml.h), the results of ``cuInit`` (cuda.h, ``CUresult``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ongpu.domain.machine import Machine, Modules, Unavailable
from ongpu.domain.verdict import Cause
from ongpu.domain.visible import visible_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why it is blocked, in one sentence; what to do, in another; and the readings that say so."""

    cause: Cause
    reason: str
    next_step: str
    lines: tuple[str, ...] = ()


def diagnose_blocked(machine: Machine) -> Blocked | None:
    """Why no GPU can be used here; ``None`` where nothing that was read stands in the way.

    ``None`` is no promise: what could not be read may still stand in the way.
    """
    return next(_rules(machine), None)


_REBOOT = "Reboot, or reload the NVIDIA kernel modules, so that module and libraries are of one version."
_CONTAINER = "Start the container with the GPU: `docker run --gpus all ...`, with the NVIDIA Container Toolkit."
_REINSTALL = "Install the NVIDIA driver for this kernel, reboot, and look whether `nvidia-smi` lists the GPU."


def _rules(machine: Machine) -> Iterator[Blocked]:
    nvml = _unread(machine, "nvml")
    yield from _nothing_there(machine)
    if not machine.devices and nvml is not None:
        yield from _nvml_failed(machine, nvml)
    if not machine.devices:
        yield from _no_devices(machine)
    else:
        yield from _cuda_failed(machine)
        yield from _hidden(machine)


def _unread(machine: Machine, what: str) -> Unavailable | None:
    return next((one for one in machine.unavailable if one.what == what), None)


def _lines(*found: Unavailable | None) -> tuple[str, ...]:
    return tuple(f"{one.what}: {one.code + ': ' if one.code else ''}{one.reason}" for one in found if one is not None)


def _nothing_there(machine: Machine) -> Iterator[Blocked]:
    if machine.os == "macos":
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE,
            reason="macOS has no NVIDIA driver.",
            next_step="Use a Linux or Windows machine with an NVIDIA GPU.",
        )
    if machine.nvidia_hardware is False and not machine.devices and machine.driver.loaded is not True:
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE,
            reason="No NVIDIA GPU is on the PCI bus of this machine.",
            next_step="Use a machine with an NVIDIA GPU; on a virtual one, attach the GPU to it.",
            lines=_lines(_unread(machine, "nvml")),
        )


def _nvml_failed(machine: Machine, nvml: Unavailable) -> Iterator[Blocked]:
    lines = _lines(nvml, _unread(machine, "kernel modules"))
    inside = machine.container is not None
    loaded = machine.driver.kernel_mode
    match nvml.code:
        case "NVML_ERROR_LIB_RM_VERSION_MISMATCH":
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason=f"The loaded kernel module ({loaded or 'version not readable'}) and the driver's libraries"
                f" do not match: {nvml.reason}.",
                next_step="Restart the container, so that it gets the host's libraries." if inside else _REBOOT,
                lines=lines,
            )
        case "NVML_ERROR_GPU_IS_LOST" | "NVML_ERROR_RESET_REQUIRED" | "NVML_ERROR_CORRUPTED_INFOROM":
            yield Blocked(
                cause=Cause.HARDWARE_FAULT,
                reason=f"The driver has lost the GPU: {nvml.reason}.",
                next_step="Reboot; if it comes back, read the kernel log for `NVRM: Xid` and have the GPU examined.",
                lines=lines,
            )
        case "NVML_ERROR_NO_PERMISSION":
            yield Blocked(
                cause=Cause.NO_GPU_VISIBLE,
                reason=f"This user may not talk to the driver: {nvml.reason}.",
                next_step="Allow this user to read and write /dev/nvidia* (often the group `video`), and try again.",
                lines=lines,
            )
        case "timeout" | "crashed":
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason=f"The driver's library was started in a child and failed: {nvml.reason}.",
                next_step="Read the kernel log for `NVRM`, and reboot.",
                lines=lines,
            )
        case _:
            yield from _not_reached(machine, lines)


def _not_reached(machine: Machine, lines: tuple[str, ...]) -> Iterator[Blocked]:
    """NVML is missing, says the driver is not loaded, or failed in a way that says little."""
    inside = machine.container is not None
    nouveau = any(one.code == "nouveau" for one in machine.unavailable)
    if machine.driver.loaded and (inside or machine.device_files is False):
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE if inside else Cause.DRIVER_BROKEN,
            reason="The host has a driver, but this container was not given the GPU."
            if inside
            else "The kernel module is loaded, but the driver's libraries or device files are missing.",
            next_step=_CONTAINER if inside else _REINSTALL,
            lines=lines,
        )
    elif machine.wsl and machine.device_files is False:
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE,
            reason="This WSL has no /dev/dxg: it is WSL 1, or Windows has no driver that offers the GPU to it.",
            next_step="Install NVIDIA's driver in Windows (never in WSL), run `wsl --update`, and use WSL 2.",
            lines=lines,
        )
    elif nouveau:
        yield Blocked(
            cause=Cause.DRIVER_BROKEN,
            reason="The open-source module nouveau drives the GPU; CUDA needs NVIDIA's own.",
            next_step=_REINSTALL,
            lines=lines,
        )
    elif machine.nvidia_hardware:
        yield Blocked(
            cause=Cause.DRIVER_BROKEN,
            reason="An NVIDIA GPU is on the PCI bus, but its driver is not installed or not loaded.",
            next_step=_REINSTALL,
            lines=lines,
        )
    else:
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE,
            reason="No NVIDIA driver answers, and whether there is an NVIDIA GPU cannot be read.",
            next_step=_REINSTALL if machine.container is None else _CONTAINER,
            lines=lines,
        )


def _no_devices(machine: Machine) -> Iterator[Blocked]:
    """NVML answers, and lists nothing (or its list failed)."""
    listed = _unread(machine, "devices")
    lines = _lines(listed, _unread(machine, "cuInit"))
    if listed is not None and listed.code in {"NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED"}:
        yield Blocked(
            cause=Cause.HARDWARE_FAULT,
            reason=f"The driver has lost the GPU: {listed.reason}.",
            next_step="Reboot; if it comes back, read the kernel log for `NVRM: Xid` and have the GPU examined.",
            lines=lines,
        )
    elif listed is not None and listed.code != "NVML_ERROR_NO_PERMISSION":
        yield Blocked(
            cause=Cause.DRIVER_BROKEN,
            reason=f"The driver answers, but not for its list of GPUs: {listed.reason}.",
            next_step="Read the kernel log for `NVRM`, and reboot.",
            lines=lines,
        )
    elif machine.container is not None or not machine.nvidia_hardware:
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE,
            reason="The driver answers, but lists no GPU for this process.",
            next_step=_CONTAINER if machine.container else "Attach the GPU to this machine, and look at `nvidia-smi`.",
            lines=lines,
        )
    else:
        flavor = machine.driver.modules
        yield Blocked(
            cause=Cause.DRIVER_BROKEN,
            reason=f"An NVIDIA GPU is on the PCI bus, but the driver {machine.driver.kernel_mode or ''} does not"
            f" drive it (kernel modules: {flavor.value}).",
            next_step="Install the open kernel modules: RTX 50 and newer need them (read the kernel log for `NVRM`)."
            if flavor is not Modules.OPEN
            else "Read the kernel log for `NVRM`, and install a driver that knows this GPU.",
            lines=lines,
        )


def _cuda_failed(machine: Machine) -> Iterator[Blocked]:
    missing, started = _unread(machine, "libcuda"), _unread(machine, "cuInit")
    if missing is not None:
        inside = machine.container is not None and missing.code == "not-found"
        yield Blocked(
            cause=Cause.NO_GPU_VISIBLE if inside else Cause.DRIVER_BROKEN,
            reason="This container was given the GPU, but not libcuda."
            if inside
            else f"NVML lists the GPU, but libcuda does not answer: {missing.reason}.",
            next_step="Start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility." if inside else _REINSTALL,
            lines=_lines(missing),
        )
    if started is None:
        return
    value = dict(machine.variables).get("CUDA_VISIBLE_DEVICES")
    lines = _lines(started)
    match started.code:
        case "CUDA_ERROR_NO_DEVICE" | "CUDA_ERROR_INVALID_DEVICE" if value is not None:
            yield _hides(f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU", lines)
        case "CUDA_ERROR_SYSTEM_NOT_READY":
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason="CUDA is not ready yet: on a machine with NVSwitch its fabric manager is not running.",
                next_step="Start nvidia-fabricmanager in the version of the driver, and try again.",
                lines=lines,
            )
        case "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE":
            yield Blocked(
                cause=Cause.CUDA_VERSION_MISMATCH,
                reason="A cuda-compat libcuda stands in front of the driver's, and this GPU does not allow it.",
                next_step="Take the cuda-compat folder out of LD_LIBRARY_PATH, or update the driver.",
                lines=lines,
            )
        case "CUDA_ERROR_STUB_LIBRARY":
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason="The toolkit's stub stands in front of the driver's libcuda.",
                next_step="Take the toolkit's `stubs` folder out of LD_LIBRARY_PATH.",
                lines=lines,
            )
        case "CUDA_ERROR_DEVICE_UNAVAILABLE":
            yield Blocked(
                cause=Cause.DEVICE_BUSY,
                reason="The GPU is in use, or in a mode that refuses a second process.",
                next_step="End what uses it, or set the compute mode to default: `nvidia-smi -c DEFAULT`.",
                lines=lines,
            )
        case "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH":
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason="The kernel module and libcuda are of different drivers.",
                next_step=_REBOOT,
                lines=lines,
            )
        case "CUDA_ERROR_ECC_UNCORRECTABLE" | "CUDA_ERROR_HARDWARE_STACK_ERROR":
            yield Blocked(
                cause=Cause.HARDWARE_FAULT,
                reason=f"The GPU reports a fault of its own ({started.code}).",
                next_step="Read the kernel log for `NVRM: Xid`, and have the GPU examined.",
                lines=lines,
            )
        case _:
            yield Blocked(
                cause=Cause.DRIVER_BROKEN,
                reason=f"NVML lists the GPU, but CUDA does not start ({started.code}).",
                next_step="Read the kernel log for `NVRM`, and reboot.",
                lines=lines,
            )


def _hidden(machine: Machine) -> Iterator[Blocked]:
    seen = visible_devices(machine)
    if not seen.devices and seen.certain:
        yield _hides(seen.reason, ())


def _hides(reason: str, lines: tuple[str, ...]) -> Blocked:
    return Blocked(
        cause=Cause.NO_GPU_VISIBLE,
        reason=f"{reason}.",
        next_step="Unset CUDA_VISIBLE_DEVICES, or set it to the UUID of a GPU that `ongpu probe` lists.",
        lines=lines,
    )
