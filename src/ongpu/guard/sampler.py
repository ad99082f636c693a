"""The sampler: a process of its own that reads the process tree and NVML, and may hang or die alone.

``python -m ongpu.guard.sampler``. JSON lines on stdout, each ``{"kind", "n", "t_mono", ...}`` with ``n`` counting
from 0 without gaps, so that a lost line is noticed; ``ongpu.domain.witness`` documents them. It first takes the
baseline, then obeys lines on stdin:

``{"watch": PID, "reaper": PID, "mark": "NAME=value"}``  begin to sample this tree, without the sampler itself
``{"burst": true}``                sample quickly again from now (something began)
``{"finish": true}``               last readings, ``sampler.end``, leave
end of file without it             the supervisor is gone: with ``"end_tree": true`` in ``watch``, end what it ran

Five times a second for the first ten seconds and after each ``burst``, then once a second; what of that is written
down later on, :mod:`ongpu.guard.pace` says. Energy and the SM use by process at the start, at the end and at most
once a second between, because reading them is slow (2.7 and 1.4 ms on an H100) and may hold a lock of the driver. A
line ``{"kind": "alive"}``, not counted, says that somebody still looks where nothing else was written for a while.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import BinaryIO, TypeVar

from ongpu.errors import DoorError
from ongpu.guard.pace import Allowance, Between, Pace, gist, is_news
from ongpu.guard.tree import Member, Watched, end_tree
from ongpu.machine.nvml import BoundedNvml, Nvml, NvmlDevice, RealNvml, UtilizationByProcess

BURST_S = 10.0
FAST_S = 0.2
SLOW_S = 1.0
ENERGY_S = 1.0
CALL_TIMEOUT_S = 5.0
# Silence counts as failure: so often something is said.
ALIVE_S = 4.0
GONE_S = 2.0
# Of processes that came and went between two lines of the tree: a line of the journal has its limit.
MET_AT_MOST = 4096
_LOST = frozenset({"NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNINITIALIZED", "NVML_ERROR_DRIVER_NOT_LOADED", "timeout"})
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
        wall: Callable[[], float] = time.time,
        pace: Pace | None = None,
    ) -> None:
        self._write = write
        self._now = now
        self._wall = wall
        self._utilization_since_us: dict[str, int] = {}
        self._pace = pace or Pace()
        self._allowance = Allowance(self._pace, now=now())
        self._between = Between()
        self._kept: tuple[float, dict[str, tuple[int, dict[int, int]]]] | None = None
        self._n = 0
        self._spoke_at = now()
        self._told: set[tuple[str | None, str, str]] = set()
        self._lost: set[str] = set()
        self._tree: tuple[Member, ...] | None = None
        self._tree_at = 0.0
        self._met: dict[tuple[int, float], Member] = {}
        self._nvml: Nvml | None = None
        self._devices: tuple[NvmlDevice, ...] = ()
        try:
            self._nvml = open_nvml()
            self._devices = self._nvml.devices()
        except DoorError as error:
            self._say_error(None, "open", error)

    def _line(self, kind: str, **data: object) -> int:
        """Write a line; its size in bytes."""
        line = {"kind": kind, "n": self._n, "t_mono": round(self._now(), 6), **data}
        self._write(line)
        self._n += 1
        self._spoke_at = self._now()
        return len(json.dumps(line))

    def alive(self) -> None:
        """Say that somebody still looks, where nothing else was said for a while."""
        if self._now() - self._spoke_at >= ALIVE_S:
            self._write({"kind": "alive"})
            self._spoke_at = self._now()

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
            self._line("baseline", devices=[], kernel_mode=None, pace=asdict(self._pace))
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
        self._line("baseline", devices=told, kernel_mode=version, pace=asdict(self._pace))

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

    def sample(self, *, elapsed_s: float | None = None, close: bool = True) -> None:
        """One reading of every device, written where it is due, new or close to a beginning; with no time, always."""
        if self._nvml is None or not self._devices:
            return
        nvml = self._nvml
        told = [self._device(nvml, one.uuid) for one in self._devices]
        self._between.take(told)
        now, seen = self._now(), {str(one["uuid"]): gist(one) for one in told}
        due = self._kept is None or elapsed_s is None or now - self._kept[0] >= self._pace.kept_after_s(elapsed_s)
        fresh = close or self._kept is None or is_news(self._kept[1], seen, news_bytes=self._pace.news_bytes)
        if not due and not (fresh and self._allowance.lasts(now)):
            return
        self._kept = (now, seen)
        readings = self._between.readings
        size_bytes = self._line("nvml.sample", devices=self._between.tell(told), readings=readings)
        if not due:
            self._allowance.spend(size_bytes)

    def energy(self, *, close: bool = True) -> None:
        """One reading of every energy counter, and of who used the SMs since the last. A close one is not yet due."""
        if self._nvml is None or not self._devices:
            return
        told = []
        for one in self._devices:
            value, reason = self._energy_of(self._nvml, one.uuid)
            told.append(
                {
                    "uuid": one.uuid,
                    "energy_mj": value,
                    **({"energy_reason": reason} if reason else {}),
                    **self._utilization(self._nvml, one.uuid),
                }
            )
        size_bytes = self._line("energy", devices=told)
        if close:
            self._allowance.spend(size_bytes)

    def _utilization(self, nvml: Nvml, uuid: str) -> dict[str, object]:
        if not isinstance(nvml, UtilizationByProcess):
            return {"sm_percent": None, "sm_percent_reason": "NVML_ERROR_FUNCTION_NOT_FOUND"}
        since_us = self._utilization_since_us.get(uuid, int(self._wall() * 1e6))
        self._utilization_since_us[uuid] = since_us
        found, reason = self._read(
            uuid, "process_utilization", lambda: nvml.process_utilization(uuid, since_us=since_us)
        )
        if found is None:
            return {"sm_percent": None, "sm_percent_reason": reason}
        recent = [one for one in found if one.at_us > since_us]
        self._utilization_since_us[uuid] = max((one.at_us for one in recent), default=since_us)
        return {"sm_percent": [{"pid": one.pid, "percent": one.sm_percent} for one in recent]}

    def tree(self, members: list[Member], *, elapsed_s: float = 0.0, close: bool = True) -> None:
        """The processes of the tree since the last such line, when they have changed."""
        for one in members:
            if len(self._met) < MET_AT_MOST:
                self._met[one.pid, one.start_time] = one
        if self._tree == tuple(members):
            return
        now = self._now()
        due = close or now - self._tree_at >= self._pace.kept_after_s(elapsed_s)
        if not due and not self._allowance.lasts(now):
            return
        self._met.update({(one.pid, one.start_time): one for one in members})
        met, self._met = sorted(self._met.values(), key=lambda one: one.pid), {}
        self._tree, self._tree_at = tuple(members), now
        rows = [{"pid": one.pid, "ppid": one.ppid, "start_time": one.start_time} for one in met]
        self._allowance.spend(self._line("tree", processes=rows))

    def end(self) -> None:
        """The last line: how many came before it."""
        self._line("sampler.end", lines=self._n)

    def watch(self, watched: Watched, commands: queue.SimpleQueue[dict[str, object] | None]) -> bool:
        """Sample until told to finish; False when the commands ended (``None``) without that."""
        start = self._now()
        burst_until = start + BURST_S
        energy_at = 0.0
        while True:
            began = self._now()
            elapsed_s = began - start
            close = elapsed_s < self._pace.close_s or (began < burst_until and self._allowance.lasts(began))
            self.tree(watched.look(), elapsed_s=elapsed_s, close=close)
            self.sample(elapsed_s=elapsed_s, close=close)
            if began >= energy_at + (ENERGY_S if close else self._pace.kept_after_s(elapsed_s)):
                self.energy(close=close)
                energy_at = began
            self.alive()
            pause = FAST_S if self._now() < burst_until else SLOW_S
            try:
                command = commands.get(timeout=max(0.0, began + pause - self._now()))
            except queue.Empty:
                continue
            if command is None:
                return False
            if command.get("finish"):
                break
            if command.get("burst"):
                burst_until = self._now() + BURST_S
        self.tree(watched.look())
        self.sample()
        self.energy()
        return True


def _commands(stdin: BinaryIO, into: queue.SimpleQueue[dict[str, object] | None]) -> None:
    for line in stdin:
        into.put(json.loads(line))
    into.put(None)


def _died(supervisor: int) -> bool:
    """Whether the supervisor is gone. A dying process closes its pipes a little before its children are handed on."""
    deadline = time.monotonic() + GONE_S
    while os.getppid() == supervisor and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getppid() != supervisor


def main(*, stdin: BinaryIO, stdout: BinaryIO, baseline_s: float) -> int:
    """Run until stdin ends. Returns the exit status."""

    def write(line: Mapping[str, object]) -> None:
        stdout.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        stdout.flush()

    commands: queue.SimpleQueue[dict[str, object] | None] = queue.SimpleQueue()
    threading.Thread(target=_commands, args=(stdin, commands), daemon=True).start()
    # Bounded: a call that hangs becomes an error, and the process tree goes on being told.
    sampler = Sampler(open_nvml=lambda: BoundedNvml(RealNvml, timeout_s=CALL_TIMEOUT_S), write=write)
    sampler.baseline(baseline_s)
    command = commands.get()
    if command is not None and not command.get("finish"):
        root, reaper = command.get("watch"), command.get("reaper")
        if not isinstance(root, int) or not isinstance(reaper, int):
            return 2
        mark = str(command.get("mark") or "")
        watched = Watched(root=root, reaper=reaper, mark=mark, outside=(os.getpid(),))
        finished = False
        try:
            finished = sampler.watch(watched, commands)
        finally:  # also when the pipe to the supervisor broke
            if not finished and command.get("end_tree") is True and _died(reaper):
                end_tree(watched.look(), grace_s=1.0)
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
