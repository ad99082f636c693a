"""The door to NVML, through nvidia-ml-py.

Every method asks the driver anew. A failure is a :class:`~ongpu.errors.DoorError` whose code is NVML's own
name (``NVML_ERROR_NOT_SUPPORTED`` is an answer, not a value). Devices are named by UUID, never by index: the
order of CUDA is not the order of NVML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlDevice:
    """Identity of one GPU. ``memory_bytes`` is the total; ``None`` fields were refused by NVML."""

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


class Nvml(Protocol):
    """What the rooms ask of NVML."""

    def kernel_mode_version(self) -> str:
        """The kernel-mode driver version, ``580.159.04``."""
        ...

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every GPU NVML sees, in NVML order."""
        ...

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

    def close(self) -> None:
        """Shut NVML down; idempotent."""
        ...


class RealNvml:
    """NVML of this machine. Raises :class:`DoorError` where the library or the driver is missing."""

    def __init__(self) -> None:
        import pynvml  # noqa: PLC0415 - loading the driver's library is this class' work, not the import's

        self._nvml: Any = pynvml
        self._handles: dict[str, Any] = {}
        self._ask(pynvml.nvmlInit)
        self._open = True

    def _ask(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except self._nvml.NVMLError as error:
            code = _CODES.get(int(getattr(error, "value", -1)), f"NVML_ERROR_{getattr(error, 'value', '?')}")
            raise DoorError(door="nvml", code=code, reason=str(error)) from error
        except (OSError, UnicodeDecodeError, AttributeError) as error:
            raise DoorError(door="nvml", code=type(error).__name__, reason=str(error)) from error

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._ask(lambda: self._nvml.nvmlDeviceGetHandleByUUID(uuid))
        return self._handles[uuid]

    def kernel_mode_version(self) -> str:
        """The kernel-mode driver version, ``580.159.04``."""
        return str(self._ask(self._nvml.nvmlSystemGetDriverVersion))

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every GPU NVML sees, in NVML order."""
        return tuple(self._device(index) for index in range(self._ask(self._nvml.nvmlDeviceGetCount)))

    def _device(self, index: int) -> NvmlDevice:
        handle = self._ask(lambda: self._nvml.nvmlDeviceGetHandleByIndex(index))
        uuid = str(self._ask(lambda: self._nvml.nvmlDeviceGetUUID(handle)))
        self._handles[uuid] = handle
        capability = self._or_none(lambda: self._nvml.nvmlDeviceGetCudaComputeCapability(handle))
        mig = self._or_none(lambda: self._nvml.nvmlDeviceGetMigMode(handle))
        return NvmlDevice(
            index=index,
            uuid=uuid,
            name=str(self._ask(lambda: self._nvml.nvmlDeviceGetName(handle))),
            memory_bytes=self._or_none(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)),
            compute_capability=ComputeCapability(*capability) if capability else None,
            pci_bus_id=self._or_none(lambda: str(self._nvml.nvmlDeviceGetPciInfo(handle).busId)),
            mig=bool(mig and mig[0]),
        )

    def _or_none(self, call: Callable[[], _T]) -> _T | None:
        try:
            return self._ask(call)
        except DoorError:
            return None

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """The compute processes on a GPU."""
        handle = self._handle(uuid)
        found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return tuple(ProcessMemory(pid=int(one.pid), used_bytes=one.usedGpuMemory) for one in found)

    def memory_used(self, uuid: str) -> int:
        """Memory in use on a GPU, in bytes."""
        handle = self._handle(uuid)
        return int(self._ask(lambda: self._nvml.nvmlDeviceGetMemoryInfo(handle)).used)

    def utilization(self, uuid: str) -> int:
        """SM utilization in percent over NVML's last window."""
        handle = self._handle(uuid)
        return int(self._ask(lambda: self._nvml.nvmlDeviceGetUtilizationRates(handle)).gpu)

    def power_mw(self, uuid: str) -> int:
        """Power draw in milliwatts."""
        handle = self._handle(uuid)
        return int(self._ask(lambda: self._nvml.nvmlDeviceGetPowerUsage(handle)))

    def energy_mj(self, uuid: str) -> int:
        """Energy since the driver was loaded, in millijoules."""
        handle = self._handle(uuid)
        return int(self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))

    def close(self) -> None:
        """Shut NVML down; idempotent."""
        if self._open:
            self._open = False
            self._ask(self._nvml.nvmlShutdown)


# NVML's return codes by number (nvml.h of CUDA 13; the numbers never change meaning).
_CODES = {
    1: "NVML_ERROR_UNINITIALIZED",
    2: "NVML_ERROR_INVALID_ARGUMENT",
    3: "NVML_ERROR_NOT_SUPPORTED",
    4: "NVML_ERROR_NO_PERMISSION",
    6: "NVML_ERROR_NOT_FOUND",
    7: "NVML_ERROR_INSUFFICIENT_SIZE",
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
    23: "NVML_ERROR_INSUFFICIENT_RESOURCES",
    27: "NVML_ERROR_GPU_NOT_FOUND",
    999: "NVML_ERROR_UNKNOWN",
}
