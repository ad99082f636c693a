"""What NVML is asked, and what it answers: the door's shape. Take these from ``ongpu.machine.nvml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ongpu.domain.arch import ComputeCapability


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlDevice:
    """Identity of one GPU, or of one part of a GPU split by MIG (``mig``, and a UUID that begins with ``MIG-``).

    ``memory_bytes`` is the total; ``None`` fields were refused by NVML.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int | None
    compute_capability: ComputeCapability | None
    pci_bus_id: str | None
    mig: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """One compute process on a GPU. ``used_bytes`` is ``None`` where the platform hides it (WDDM), never 0."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUtilization:
    """How much of a GPU's SMs one process used in a window that ended ``at_us`` (microseconds since the epoch)."""

    pid: int
    sm_percent: int
    at_us: int


class NvmlIdentity(Protocol):
    """What a probe asks of NVML: which driver, and which GPUs."""

    def kernel_mode_version(self) -> str:
        """The kernel-mode driver version, ``580.159.04``."""
        ...

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every GPU NVML sees, in NVML order."""
        ...

    def close(self) -> None:
        """Shut NVML down; idempotent."""
        ...


class Nvml(NvmlIdentity, Protocol):
    """What the rooms ask of NVML."""

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """The compute processes on a GPU."""
        ...

    def memory_used(self, uuid: str) -> int:
        """Memory in use on a GPU, in bytes."""
        ...

    def utilization(self, uuid: str) -> int:
        """SM utilization in percent over NVML's last window."""
        ...

    def power_mw(self, uuid: str) -> int:
        """Power draw in milliwatts."""
        ...

    def energy_mj(self, uuid: str) -> int:
        """Energy since the driver was loaded, in millijoules. Costly (median 2.7 ms on an H100): at most 1 Hz."""
        ...


@runtime_checkable
class UtilizationByProcess(Protocol):
    """What only the guard asks, and only of a pid that the memory list has too.

    In a PID namespace NVML was seen to name foreign processes by their outer pid here (H100, driver 580.159.04), so
    a pid of this list alone says nothing. Costs 1.4 ms a call (same machine).
    """

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:
        """The windows since ``since_us``; empty when no process worked."""
        ...


def code_name(number: int) -> str:
    """NVML's own name of a return code; ``NVML_ERROR_77`` for one this list does not have."""
    return _CODES.get(int(number), f"NVML_ERROR_{int(number)}")


# NVML's return codes by number (nvml.h, as nvidia-ml-py 13 lists them; the numbers never change meaning).
_CODES = {
    1: "NVML_ERROR_UNINITIALIZED",
    2: "NVML_ERROR_INVALID_ARGUMENT",
    3: "NVML_ERROR_NOT_SUPPORTED",
    4: "NVML_ERROR_NO_PERMISSION",
    5: "NVML_ERROR_ALREADY_INITIALIZED",
    6: "NVML_ERROR_NOT_FOUND",
    7: "NVML_ERROR_INSUFFICIENT_SIZE",
    8: "NVML_ERROR_INSUFFICIENT_POWER",
    9: "NVML_ERROR_DRIVER_NOT_LOADED",
    10: "NVML_ERROR_TIMEOUT",
    11: "NVML_ERROR_IRQ_ISSUE",
    12: "NVML_ERROR_LIBRARY_NOT_FOUND",
    13: "NVML_ERROR_FUNCTION_NOT_FOUND",
    14: "NVML_ERROR_CORRUPTED_INFOROM",
    15: "NVML_ERROR_GPU_IS_LOST",
    16: "NVML_ERROR_RESET_REQUIRED",
    17: "NVML_ERROR_OPERATING_SYSTEM",
    18: "NVML_ERROR_LIB_RM_VERSION_MISMATCH",
    19: "NVML_ERROR_IN_USE",
    20: "NVML_ERROR_MEMORY",
    21: "NVML_ERROR_NO_DATA",
    22: "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED",
    23: "NVML_ERROR_INSUFFICIENT_RESOURCES",
    24: "NVML_ERROR_FREQ_NOT_SUPPORTED",
    25: "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
    26: "NVML_ERROR_DEPRECATED",
    27: "NVML_ERROR_NOT_READY",
    28: "NVML_ERROR_GPU_NOT_FOUND",
    29: "NVML_ERROR_INVALID_STATE",
    30: "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED",
    999: "NVML_ERROR_UNKNOWN",
}
