"""NVML as a child was told: which driver, which GPUs. Nothing of NVML is loaded into this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError
from ongpu.machine.driver_check import NVML_DEVICES, NVML_START, START_TIMEOUT_S, read_answer, run_check
from ongpu.machine.nvml_types import NvmlDevice, code_name
from ongpu.machine.process import Completed, Processes


class AskedNvml:
    """What NVML answered once. ``library`` is the file that answered, ``None`` where the platform does not tell."""

    def __init__(self, start: dict[str, object], done: Completed, *, timeout_s: float) -> None:
        self._start = start
        self._done = done
        self._timeout_s = timeout_s
        library = start.get("library")
        self.library = library if isinstance(library, str) else None

    def kernel_mode_version(self) -> str:
        """The kernel-mode driver version."""
        return str(_told(self._start.get("kernel_mode"), "nvmlSystemGetDriverVersion"))

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every GPU NVML sees, in NVML order. :raises DoorError: also where the child hung or crashed over it."""
        found = read_answer(self._done, door="nvml", timeout_s=self._timeout_s, line=1).get("devices")
        listed = _told(found, "the device list")
        return tuple(_device(one) for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()

    def close(self) -> None:
        """Nothing is open."""


def ask_nvml(
    processes: Processes, *, python: Path, environment: Mapping[str, str], timeout_s: float = START_TIMEOUT_S
) -> AskedNvml:
    """Ask NVML of this machine in a child.

    :param python: any Python 3.9+; it needs nothing installed.
    :raises DoorError: as :func:`start_nvml`.
    """
    done = run_check(processes, NVML_DEVICES, python=python, environment=environment, timeout_s=timeout_s)
    return AskedNvml(_started(done, timeout_s), done, timeout_s=timeout_s)


def start_nvml(
    processes: Processes, *, python: Path, environment: Mapping[str, str], timeout_s: float = START_TIMEOUT_S
) -> None:
    """Start NVML in a child, to see whether it can be.

    :raises DoorError: NVML's own code, or ``timeout``, ``crashed``, ``unreadable``. The reason names the version of
        the NVML library where it told it, since a mismatch with the kernel module needs both.
    """
    done = run_check(processes, NVML_START, python=python, environment=environment, timeout_s=timeout_s)
    _started(done, timeout_s)


def _started(done: Completed, timeout_s: float) -> dict[str, object]:
    found = read_answer(done, door="nvml", timeout_s=timeout_s)
    result = found.get("init")
    if result != 0:
        code = code_name(result) if isinstance(result, int) else "unreadable"
        library = f"; the NVML library is {found['library_version']}" if found.get("library_version") else ""
        raise DoorError(door="nvml", code=code, reason=f"{_SAID.get(code, 'nvmlInit failed')}{library}")
    return found


# What a start that fails most often means, in NVML's words.
_SAID = {
    "NVML_ERROR_DRIVER_NOT_LOADED": "the kernel module of the driver is not loaded",
    "NVML_ERROR_NO_PERMISSION": "no permission to talk to the driver",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions do not match",
    "NVML_ERROR_GPU_IS_LOST": "the GPU has fallen off the bus",
}


def _told(answer: object, what: str) -> object:
    if isinstance(answer, dict):
        code = code_name(int(answer["refused"]))
        raise DoorError(door="nvml", code=code, reason=_SAID.get(code, f"{what} was refused"))
    return answer


def _device(row: dict[str, object]) -> NvmlDevice:
    capability, memory, bus = row.get("compute_capability"), row.get("memory_bytes"), row.get("pci_bus_id")
    index = row.get("index")
    return NvmlDevice(
        index=index if isinstance(index, int) else 0,
        uuid=str(row.get("uuid")),
        name=str(row.get("name")),
        memory_bytes=memory if isinstance(memory, int) else None,
        compute_capability=ComputeCapability.parse(capability) if isinstance(capability, str) else None,
        pci_bus_id=bus if isinstance(bus, str) else None,
        mig=row.get("mig") is True,
    )
