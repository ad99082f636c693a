"""NVML of this machine, through nvidia-ml-py: one method a question, one translation of its errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError
from ongpu.machine.nvml_types import NvmlDevice, ProcessMemory, ProcessUtilization, code_name

_T = TypeVar("_T")

# Linux's own limit (PID_MAX_LIMIT of a 64-bit kernel) is 4194304; Windows gives out multiples of four, far below this.
_LARGEST_PID = 1 << 31


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
        except self._nvml.NVMLLibraryMismatchError as error:  # an old driver lacks the function asked for
            raise DoorError(door="nvml", code="NVML_ERROR_FUNCTION_NOT_FOUND", reason=str(error)) from error
        except self._nvml.NVMLError as error:
            raise DoorError(door="nvml", code=code_name(getattr(error, "value", -1)), reason=str(error)) from error
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
        """Every GPU NVML sees, in NVML order; of one that is split by MIG its parts, which CUDA sees in its place."""
        found: list[NvmlDevice] = []
        for index in range(self._ask(self._nvml.nvmlDeviceGetCount)):
            handle = self._ask(lambda index=index: self._nvml.nvmlDeviceGetHandleByIndex(index))  # type: ignore[misc]
            whole = self._device(index, handle)
            parts = [self._device(index, part, of=whole) for part in self._parts(handle)] if whole.mig else []
            found += parts or [whole]
        return tuple(found)

    def _parts(self, handle: Any) -> Iterator[Any]:
        for index in range(self._or_none(lambda: int(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0):
            part = self._or_none(
                lambda index=index: self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)  # type: ignore[misc]
            )
            if part is not None:  # the places are numbered to the most there may be; most are empty
                yield part

    def _device(self, index: int, handle: Any, *, of: NvmlDevice | None = None) -> NvmlDevice:
        uuid = str(self._ask(lambda: self._nvml.nvmlDeviceGetUUID(handle)))
        self._handles[uuid] = handle
        capability = None if of else self._or_none(lambda: self._nvml.nvmlDeviceGetCudaComputeCapability(handle))
        mig = None if of else self._or_none(lambda: self._nvml.nvmlDeviceGetMigMode(handle))
        name = str(self._ask(lambda: self._nvml.nvmlDeviceGetName(handle)))
        memory = self._or_none(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total))
        if of is not None:  # a part has no bus of its own, and the capability of the whole
            return dataclasses.replace(of, uuid=uuid, name=name, memory_bytes=memory)
        return NvmlDevice(
            index=index,
            uuid=uuid,
            name=name,
            memory_bytes=memory,
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
        try:
            found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
        except DoorError as error:
            if error.code != "NVML_ERROR_FUNCTION_NOT_FOUND":
                raise
            # Older drivers have the second version only; what is older still stays an error.
            found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))
        # Under MPS the first list has the server alone; its clients are in one of their own.
        clients = self._or_none(lambda: self._nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle)) or ()
        listed = {int(one.pid): ProcessMemory(pid=int(one.pid), used_bytes=one.usedGpuMemory) for one in clients}
        listed |= {int(one.pid): ProcessMemory(pid=int(one.pid), used_bytes=one.usedGpuMemory) for one in found}
        return self._plausible(handle, tuple(listed.values()))

    def _plausible(self, handle: Any, listed: tuple[ProcessMemory, ...]) -> tuple[ProcessMemory, ...]:
        """Refuse a list that a driver filled in another layout than the binding reads it by."""
        total = self._or_none(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)) if listed else None
        for one in listed:
            too_much = total is not None and one.used_bytes is not None and one.used_bytes > total
            if not 0 < one.pid <= _LARGEST_PID or too_much:
                reason = f"the list names process {one.pid} with {one.used_bytes} bytes, on a GPU of {total}"
                raise DoorError(door="nvml", code="implausible", reason=reason)
        return listed

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

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:
        """SM utilization by process since ``since_us`` (microseconds since the epoch)."""
        handle = self._handle(uuid)
        try:
            found = self._ask(lambda: self._nvml.nvmlDeviceGetProcessUtilization(handle, since_us))
        except DoorError as error:
            if error.code == "NVML_ERROR_NOT_FOUND":  # its word for "nothing ran in the window"
                return ()
            raise
        return tuple(
            ProcessUtilization(pid=int(one.pid), sm_percent=int(one.smUtil), at_us=int(one.timeStamp)) for one in found
        )

    def close(self) -> None:
        """Shut NVML down; idempotent."""
        if self._open:
            self._open = False
            self._ask(self._nvml.nvmlShutdown)
