"""The sampler: a process of its own that reads the process tree and NVML, and may hang or die alone.

``python -m ongpu.guard.sampler``. JSON lines on stdout, each ``{"kind", "n", "t_mono", ...}`` with ``n`` counting
from 0 without gaps, so that a lost line is noticed; ``ongpu.domain.witness`` documents them. It first takes the
baseline, then obeys lines on stdin:

``{"watch": PID, "reaper": PID}``  begin to sample this tree
``{"burst": true}``                sample quickly again from now (something began)
end of file                        last readings, ``sampler.end``, leave

Five times a second for the first ten seconds and after each ``burst``, then once a second; energy at the start,
at the end and at most once a second between, because reading it is slow (2.7 ms on an H100) and may hold a
lock of the driver.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeVar

from ongpu.errors import DoorError
from ongpu.guard.tree import Member, Watched
from ongpu.machine.nvml import Nvml, NvmlDevice, RealNvml

BURST_S = 10.0
FAST_S = 0.2
SLOW_S = 1.0
ENERGY_S = 1.0
_LOST = frozenset({"NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNINITIALIZED", "NVML_ERROR_DRIVER_NOT_LOADED"})
_T = TypeVar("_T")


class Sampler:
    """Reads and writes lines; every door is handed in.

    :param write: takes one line as a mapping; ``n`` and ``t_mono`` are added here.
    """

    def __init__(
        self,
        *,
        open_nvml: Callable[[], Nvml],
        write: Callable[[Mapping[str, object]], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._now = now
        self._n = 0
        self._told: set[tuple[str | None, str, str]] = set()
        self._lost: set[str] = set()
        self._tree: tuple[Member, ...] | None = None
        self._nvml: Nvml | None = None
        self._devices: tuple[NvmlDevice, ...] = ()
        try:
            self._nvml = open_nvml()
            self._devices = self._nvml.devices()
        except DoorError as error:
            self._say_error(None, "open", error)

    def _line(self, kind: str, **data: object) -> None:
        self._write({"kind": kind, "n": self._n, "t_mono": round(self._now(), 6), **data})
        self._n += 1

    def _say_error(self, uuid: str | None, what: str, error: DoorError) -> None:
        """Each failure is told once: a sampler that repeats it five times a second tells no more."""
        key = (uuid, what, error.code)
        if key not in self._told:
            self._told.add(key)
            self._line("nvml.error", uuid=uuid, what=what, code=error.code, reason=error.reason)

    def _read(self, uuid: str, what: str, call: Callable[[], _T]) -> tuple[_T | None, str | None]:
        if uuid in self._lost:
            return None, "the GPU was lost"
        try:
            return call(), None
        except DoorError as error:
            self._say_error(uuid, what, error)
            if error.code in _LOST:
                self._lost.add(uuid)  # after a lost GPU every call can hang: ask no more
            return None, error.code

    def baseline(self, window_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Memory, processes and energy of each device before the command starts."""
        if self._nvml is None or not self._devices:
            self._line("baseline", devices=[], kernel_mode=None)
            return
        nvml = self._nvml
        try:
            version: str | None = nvml.kernel_mode_version()
        except DoorError as error:
            version = None
            self._say_error(None, "kernel_mode_version", error)
        before = {one.uuid: (self._now(), *self._energy_of(nvml, one.uuid)) for one in self._devices}
        sleep(window_s)
        told = []
        for one in self._devices:
            began, energy_start, _ = before[one.uuid]
            energy_end, energy_reason = self._energy_of(nvml, one.uuid)
            told.append(
                {
                    **self._device(nvml, one.uuid),
                    "name": one.name,
                    "memory_bytes": one.memory_bytes,
                    "compute_capability": str(one.compute_capability) if one.compute_capability else None,
                    "pci_bus_id": one.pci_bus_id,
                    "mig": one.mig,
                    "energy_start_mj": energy_start,
                    "energy_end_mj": energy_end,
                    "energy_seconds": round(self._now() - began, 6),
                    **({"energy_reason": energy_reason} if energy_reason else {}),
                }
            )
        self._line("baseline", devices=told, kernel_mode=version)

    def _energy_of(self, nvml: Nvml, uuid: str) -> tuple[int | None, str | None]:
        return self._read(uuid, "energy_mj", lambda: nvml.energy_mj(uuid))

    def _device(self, nvml: Nvml, uuid: str) -> dict[str, object]:
        told: dict[str, object] = {"uuid": uuid}
        processes, reason = self._read(uuid, "processes", lambda: nvml.processes(uuid))
        told["processes"] = (
            None if processes is None else [{"pid": one.pid, "used_bytes": one.used_bytes} for one in processes]
        )
        if reason:
            told["processes_reason"] = reason
        for name, what, call in (
            ("memory_used_bytes", "memory_used", nvml.memory_used),
            ("utilization_percent", "utilization", nvml.utilization),
            ("power_mw", "power_mw", nvml.power_mw),
        ):
            told[name], reason = self._read(uuid, what, lambda call=call: call(uuid))  # type: ignore[misc]
            if reason:
                told[f"{name}_reason"] = reason
        return told

    def sample(self) -> None:
        """One reading of every device."""
        if self._nvml is not None and self._devices:
            nvml = self._nvml
            self._line("nvml.sample", devices=[self._device(nvml, one.uuid) for one in self._devices])

    def energy(self) -> None:
        """One reading of every energy counter."""
        if self._nvml is None or not self._devices:
            return
        told = []
        for one in self._devices:
            value, reason = self._energy_of(self._nvml, one.uuid)
            told.append({"uuid": one.uuid, "energy_mj": value, **({"energy_reason": reason} if reason else {})})
        self._line("energy", devices=told)

    def tree(self, members: list[Member]) -> None:
        """The tree, when it has changed."""
        if self._tree != tuple(members):
            self._tree = tuple(members)
            self._line(
                "tree",
                processes=[{"pid": one.pid, "ppid": one.ppid, "start_time": one.start_time} for one in members],
            )

    def end(self) -> None:
        """The last line: how many came before it."""
        self._line("sampler.end", lines=self._n)

    def watch(self, watched: Watched, commands: queue.SimpleQueue[dict[str, object] | None]) -> None:
        """Sample until the commands end (``None``)."""
        burst_until = self._now() + BURST_S
        energy_at = 0.0
        while True:
            began = self._now()
            self.tree(watched.look())
            self.sample()
            if began >= energy_at:
                self.energy()
                energy_at = began + ENERGY_S
            pause = FAST_S if self._now() < burst_until else SLOW_S
            try:
                command = commands.get(timeout=max(0.0, began + pause - self._now()))
            except queue.Empty:
                continue
            if command is None:
                break
            if command.get("burst"):
                burst_until = self._now() + BURST_S
        self.tree(watched.look())
        self.sample()
        self.energy()


def _commands(stdin: BinaryIO, into: queue.SimpleQueue[dict[str, object] | None]) -> None:
    for line in stdin:
        into.put(json.loads(line))
    into.put(None)


def main(*, stdin: BinaryIO, stdout: BinaryIO, baseline_s: float) -> int:
    """Run until stdin ends. Returns the exit status."""

    def write(line: Mapping[str, object]) -> None:
        stdout.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        stdout.flush()

    commands: queue.SimpleQueue[dict[str, object] | None] = queue.SimpleQueue()
    threading.Thread(target=_commands, args=(stdin, commands), daemon=True).start()
    sampler = Sampler(open_nvml=RealNvml, write=write)
    sampler.baseline(baseline_s)
    command = commands.get()
    if command is not None:
        root, reaper = command.get("watch"), command.get("reaper")
        if not isinstance(root, int) or not isinstance(reaper, int):
            return 2
        sampler.watch(Watched(root=root, reaper=reaper, outside=(os.getpid(),)), commands)
    sampler.end()
    return 0


if __name__ == "__main__":
    try:
        STATUS = main(
            stdin=sys.stdin.buffer, stdout=sys.stdout.buffer, baseline_s=float(sys.argv[1]) if sys.argv[1:] else 1.0
        )
    except BrokenPipeError:
        STATUS = 1  # the supervisor is gone
    os._exit(STATUS)  # a thread that waits on stdin, or a driver that hangs at shutdown, must not keep us
