"""The door to NVML, through nvidia-ml-py.

Every method asks the driver anew. A failure is a :class:`~ongpu.errors.DoorError` whose code is NVML's own
name (``NVML_ERROR_NOT_SUPPORTED`` is an answer, not a value). Devices are named by UUID, never by index: the
order of CUDA is not the order of NVML.

A broken driver can crash or hang whoever asks it. ``open_nvml`` therefore lets a child start NVML first, and hands
out a door whose every call ends within a limit (``BoundedNvml``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from ongpu.errors import DoorError
from ongpu.machine.driver_check import START_TIMEOUT_S
from ongpu.machine.nvml_asked import AskedNvml, ask_nvml, start_nvml
from ongpu.machine.nvml_real import RealNvml
from ongpu.machine.nvml_types import (
    Nvml,
    NvmlDevice,
    NvmlIdentity,
    ProcessMemory,
    ProcessUtilization,
    UtilizationByProcess,
    code_name,
)
from ongpu.machine.process import Processes

__all__ = [
    "AskedNvml",
    "BoundedNvml",
    "Nvml",
    "NvmlDevice",
    "NvmlIdentity",
    "ProcessMemory",
    "ProcessUtilization",
    "RealNvml",
    "UtilizationByProcess",
    "ask_nvml",
    "code_name",
    "open_nvml",
]

_T = TypeVar("_T")


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
    start_nvml(processes, python=python, environment=environment, timeout_s=timeout_s)
    return BoundedNvml(RealNvml, timeout_s=min(10.0, timeout_s), start_timeout_s=timeout_s)
