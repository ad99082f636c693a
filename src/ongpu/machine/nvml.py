"""The door to NVML, through nvidia-ml-py.

Every method asks the driver anew. A failure is a :class:`~ongpu.errors.DoorError` whose code is NVML's own
name (``NVML_ERROR_NOT_SUPPORTED`` is an answer, not a value). Devices are named by UUID, never by index: the
order of CUDA is not the order of NVML.

A broken driver can crash or hang whoever asks it. ``open_nvml`` therefore lets a child start NVML first, and hands
out a door whose every call ends within a limit (``BoundedNvml``).
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError
from ongpu.machine.driver_check import START_TIMEOUT_S, read_answer, run_check
from ongpu.machine.process import Processes

_T = TypeVar("_T")

# Linux's own limit (PID_MAX_LIMIT of a 64-bit kernel) is 4194304; Windows gives out multiples of four, far below this.
_LARGEST_PID = 1 << 31


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


@runtime_checkable
class UtilizationByProcess(Protocol):
    """What only the guard asks, and only of a pid that the memory list has too.

    In a PID namespace NVML was seen to name foreign processes by their outer pid here (H100, driver 580.159.04), so
    a pid of this list alone says nothing. Costs 1.4 ms a call (same machine).
    """

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:
        """The windows since ``since_us``; empty when no process worked."""
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
            # Drivers before 510 have the second version only; what is older still stays an error.
            found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))
        listed = tuple(ProcessMemory(pid=int(one.pid), used_bytes=one.usedGpuMemory) for one in found)
        return self._plausible(handle, listed)

    def _plausible(self, handle: Any, listed: tuple[ProcessMemory, ...]) -> tuple[ProcessMemory, ...]:
        """Refuse a list that a driver filled in another layout than the binding reads it by (seen with 530 and 535)."""
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


class BoundedNvml:
    """NVML whose every call ends within a limit.

    One thread makes the calls. Where one does not come back, it and every later one is a :class:`DoorError` of
    code ``timeout``; the thread is left behind, since nothing can end it.

    :param opened: makes the door to bound, in that thread: starting is a call like the others.
    :param timeout_s: seconds a call may take.
    :param start_timeout_s: seconds the start may take. Without persistence mode it wakes every GPU in turn.
    """

    def __init__(
        self, opened: Callable[[], Nvml], *, timeout_s: float = 10.0, start_timeout_s: float | None = None
    ) -> None:
        self._timeout_s = timeout_s if start_timeout_s is None else start_timeout_s
        self._hung: str | None = None
        self._closed = False
        self._work: queue.SimpleQueue[tuple[Callable[[], object], queue.SimpleQueue[tuple[bool, object]]] | None]
        self._work = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="ongpu-nvml").start()
        try:
            self._nvml: Nvml = self._within("nvmlInit", opened)
        except DoorError:
            self._work.put(None)
            raise
        self._timeout_s = timeout_s

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            call, box = item
            try:
                box.put((True, call()))
            except Exception as error:  # noqa: BLE001 - carried over to the thread that asked and raised there
                box.put((False, error))

    def _within(self, name: str, call: Callable[[], _T]) -> _T:
        if self._hung is not None:
            raise DoorError(door="nvml", code="timeout", reason=f"{self._hung} has not come back; {name} was not asked")
        if self._closed:
            raise DoorError(door="nvml", code=code_name(1), reason=f"closed; {name} was not asked")
        box: queue.SimpleQueue[tuple[bool, object]] = queue.SimpleQueue()
        self._work.put((call, box))
        try:
            good, value = box.get(timeout=self._timeout_s)
        except queue.Empty:
            self._hung = name
            reason = f"{name} did not come back within {self._timeout_s:g} s"
            raise DoorError(door="nvml", code="timeout", reason=reason) from None
        if not good:
            assert isinstance(value, Exception)
            raise value
        return cast("_T", value)

    def kernel_mode_version(self) -> str:
        """The kernel-mode driver version."""
        return self._within("nvmlSystemGetDriverVersion", self._nvml.kernel_mode_version)

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every GPU NVML sees, in NVML order."""
        return self._within("the device list", self._nvml.devices)

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """The compute processes on a GPU."""
        return self._within("nvmlDeviceGetComputeRunningProcesses", lambda: self._nvml.processes(uuid))

    def memory_used(self, uuid: str) -> int:
        """Memory in use on a GPU, in bytes."""
        return self._within("nvmlDeviceGetMemoryInfo", lambda: self._nvml.memory_used(uuid))

    def utilization(self, uuid: str) -> int:
        """SM utilization in percent."""
        return self._within("nvmlDeviceGetUtilizationRates", lambda: self._nvml.utilization(uuid))

    def power_mw(self, uuid: str) -> int:
        """Power draw in milliwatts."""
        return self._within("nvmlDeviceGetPowerUsage", lambda: self._nvml.power_mw(uuid))

    def energy_mj(self, uuid: str) -> int:
        """Energy since the driver was loaded, in millijoules."""
        return self._within("nvmlDeviceGetTotalEnergyConsumption", lambda: self._nvml.energy_mj(uuid))

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:
        """SM utilization by process; a door without it answers as a driver without the function."""
        nvml = self._nvml
        if not isinstance(nvml, UtilizationByProcess):
            raise DoorError(door="nvml", code="NVML_ERROR_FUNCTION_NOT_FOUND", reason="no per-process utilization")
        return self._within(
            "nvmlDeviceGetProcessUtilization", lambda: nvml.process_utilization(uuid, since_us=since_us)
        )

    def close(self) -> None:
        """Shut NVML down and end the thread; idempotent, and never waits for a call that hangs."""
        if self._closed:
            return
        try:
            if self._hung is None:
                self._within("nvmlShutdown", self._nvml.close)
        finally:
            self._closed = True
            self._work.put(None)


def open_nvml(
    processes: Processes, *, python: Path, environment: Mapping[str, str], timeout_s: float = START_TIMEOUT_S
) -> BoundedNvml:
    """NVML of this machine, started in a child first.

    :param python: any Python 3.9+ for the child; it needs nothing installed.
    :param timeout_s: seconds the start may take, in the child and again here; a later call has at most ten.
    :raises DoorError: NVML's own code, or ``timeout``, ``crashed``, ``unreadable``. The reason names the version of
        the NVML library where it told it, since a mismatch with the kernel module needs both.
    """
    done = run_check(processes, "nvml_check.py", python=python, environment=environment, timeout_s=timeout_s)
    found = read_answer(done, door="nvml", timeout_s=timeout_s)
    result = found.get("init")
    if result != 0:
        code = code_name(result) if isinstance(result, int) else "unreadable"
        library = f"; the NVML library is {found['library_version']}" if found.get("library_version") else ""
        raise DoorError(door="nvml", code=code, reason=f"{_SAID.get(code, 'nvmlInit failed')}{library}")
    return BoundedNvml(RealNvml, timeout_s=min(10.0, timeout_s), start_timeout_s=timeout_s)


# What a start that fails most often means, in NVML's words.
_SAID = {
    "NVML_ERROR_DRIVER_NOT_LOADED": "the kernel module of the driver is not loaded",
    "NVML_ERROR_NO_PERMISSION": "no permission to talk to the driver",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions do not match",
    "NVML_ERROR_GPU_IS_LOST": "the GPU has fallen off the bus",
}


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
