"""The look from outside: does NVML list the very process that says it holds memory?"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ongpu.domain.verdict import Outcome
from ongpu.errors import DoorError
from ongpu.machine.nvml import Nvml, ProcessMemory
from ongpu.smoke.model import Figure, Holding, SmokeCheck, not_made, read

_LOOK_S: Final = 5.0
_HOLDING: Final = re.compile(rb'\{"event": "holding"[^{}]*\}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What NVML and the child said at the moment that the child held its memory.

    ``listed`` is NVML's list or the reason why there is none; ``rise_bytes`` how much the device's memory in use
    has grown since before the child started (``None``: not readable); ``earlier`` the pids that NVML listed before.
    """

    pids: tuple[int, ...] = ()
    holding: Holding | None = None
    listed: tuple[ProcessMemory, ...] | str = "NVML was not asked"
    rise_bytes: int | None = None
    earlier: frozenset[int] = frozenset()


class Look:
    """Watches the child's output; when it holds its memory, asks NVML, and then lets it go on."""

    def __init__(self, *, nvml: Nvml | None, uuid: str | None, release: Path) -> None:
        self.release = release
        self.seen = Seen()
        self._nvml = nvml
        self._uuid = uuid
        self._text = bytearray()
        self._pid = 0
        # Taken before the child starts, of every GPU it might take; the names here are NVML's own.
        self._before = {one: self._used(one) for one in ((uuid,) if uuid else self._listed())}
        self._earlier = {one: self._pids(one) for one in self._before}

    def start(self, pid: int) -> None:
        """The child has this pid."""
        self._pid = pid

    def take(self, chunk: bytes) -> None:
        """A chunk of the child's output."""
        if self.seen.holding is not None:
            return
        self._text += chunk
        found = _HOLDING.search(self._text)
        holding = read(found[0], Holding) if found else None
        if holding is None:
            return
        try:
            self.seen = self._ask(holding)
        finally:
            self.release.touch()

    def _listed(self) -> tuple[str, ...]:
        if self._nvml is None:
            return ()
        try:
            return tuple(one.uuid for one in self._nvml.devices())
        except DoorError:  # shown as a GPU that NVML does not know
            return ()

    def _pids(self, uuid: str) -> frozenset[int]:
        if self._nvml is None:
            return frozenset()
        try:
            return frozenset(one.pid for one in self._nvml.processes(uuid))
        except DoorError:  # shown when the child is looked for
            return frozenset()

    def _used(self, uuid: str) -> int | None:
        if self._nvml is None:
            return None
        try:
            return self._nvml.memory_used(uuid)
        except DoorError:  # shown as a rise that is not readable
            return None

    def _ask(self, holding: Holding) -> Seen:
        # On Windows the python.exe of an environment starts another: the child's child is the same program.
        pids = (self._pid, holding.pid) if holding.ppid == self._pid else (self._pid,)
        named = holding.uuid
        uuid = self._uuid or next((one for one in self._before if named and one.lower().endswith(named.lower())), None)
        if self._nvml is None or uuid is None:
            reason = "no NVML to ask" if self._nvml is None else f"NVML does not list the GPU that torch used ({named})"
            return Seen(pids=pids, holding=holding, listed=reason)
        deadline = time.monotonic() + _LOOK_S
        while True:
            try:
                listed = self._nvml.processes(uuid)
            except DoorError as error:
                return Seen(pids=pids, holding=holding, listed=f"{error.code}: {error.reason}")
            if any(one.pid in pids for one in listed) or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        after = self._used(uuid)
        before = self._before.get(uuid)
        rise = None if after is None or before is None else after - before
        earlier = self._earlier.get(uuid, frozenset())
        return Seen(pids=pids, holding=holding, listed=listed, rise_bytes=rise, earlier=earlier)


def judge_memory(seen: Seen) -> SmokeCheck:
    """Whether NVML lists that very process with at least the memory it says it reserved."""
    name, holding = "process-memory", seen.holding
    if holding is None:
        return not_made(name, "the child never held its memory", None)
    figures: dict[str, Figure] = {
        "pid": holding.pid,
        "reserved_bytes": holding.reserved_bytes,
        "used_bytes": None,
        "device_rise_bytes": seen.rise_bytes,
    }

    def answer(outcome: Outcome, reason: str) -> SmokeCheck:
        return SmokeCheck(name=name, outcome=outcome, reason=reason, figures=figures)

    if isinstance(seen.listed, str):
        return answer(Outcome.UNKNOWN, f"the list of processes could not be read: {seen.listed}")
    mine = [one for one in seen.listed if one.pid in seen.pids]
    if not mine:
        # Certain only where nobody else computes there, who might have given memory back at the same time.
        if not seen.listed and seen.rise_bytes is not None and seen.rise_bytes < holding.reserved_bytes // 2:
            reason = f"NVML lists no process at all, and the GPU's memory rose by {seen.rise_bytes} bytes only"
            return answer(Outcome.REFUTED, reason)
        others = f"{len(seen.listed)} other processes" if seen.listed else "no process at all"
        reason = (
            f"NVML lists {others}: Windows and WSL hide them, an older driver lists a container's by the host's pids"
        )
        return answer(Outcome.UNKNOWN, reason + _rise(seen))
    if seen.earlier & {one.pid for one in mine}:
        reason = f"NVML listed a process {mine[0].pid} before the child began: these are not the pids of this namespace"
        return answer(Outcome.UNKNOWN, reason)
    known = [one.used_bytes for one in mine if one.used_bytes is not None]
    if not known:
        return answer(Outcome.UNKNOWN, f"NVML lists the process, but this platform hides its memory{_rise(seen)}")
    figures["used_bytes"] = max(known)
    if holding.reserved_bytes > 0 and max(known) >= holding.reserved_bytes:
        reason = f"NVML lists process {mine[0].pid} with {max(known)} bytes; it reserved {holding.reserved_bytes}"
        return answer(Outcome.PROVEN, reason)
    reason = f"the process says it reserved {holding.reserved_bytes} bytes, but NVML lists it with {max(known)}"
    return answer(Outcome.REFUTED, reason)


def _rise(seen: Seen) -> str:
    """What the device as a whole shows: no proof of that process, but said."""
    return "" if seen.rise_bytes is None else f"; the GPU's memory in use rose by {seen.rise_bytes} bytes meanwhile"
