"""Process trees: who belongs to a run, and how it is ended.

The identity of a process is ``(pid, start_time)``: a pid alone is reused. On Linux ``start_time`` is field 22 of
``/proc/PID/stat`` in seconds since boot, the same number that the hook reads of itself; elsewhere it is psutil's
``create_time`` and the hook has none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process of a tree."""

    pid: int
    ppid: int
    start_time: float


def read_processes() -> dict[int, Member]:
    """Every process that can be seen, by pid: none where ``/proc`` is hidden. Those that end meanwhile are left out."""
    if psutil.LINUX:
        return _read_proc()
    found: dict[int, Member] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found[process.pid] = Member(pid=process.pid, ppid=process.ppid(), start_time=process.create_time())
    return found


def _read_proc() -> dict[int, Member]:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found: dict[int, Member] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - five times a second: no Path per process
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                pid = int(name)
                start_time = round(int(fields[19]) / ticks_per_s, 2)
                found[pid] = Member(pid=pid, ppid=int(fields[1]), start_time=start_time)
    return found


def members_of(processes: object) -> list[Member]:
    """Members as the sampler's ``tree`` line tells them."""
    rows = processes if isinstance(processes, list) else []
    return [Member(pid=one["pid"], ppid=one["ppid"], start_time=one["start_time"]) for one in rows]


def descendants(root: int, processes: dict[int, Member]) -> list[Member]:
    """``root`` and everything below it, parents first; empty when ``root`` is gone."""
    children: dict[int, list[int]] = {}
    for member in processes.values():
        children.setdefault(member.ppid, []).append(member.pid)
    order = [root] if root in processes else []
    for pid in order:
        order.extend(child for child in children.get(pid, ()) if child != pid)
    return [processes[pid] for pid in order]


class Watched:
    """The tree of one run over time: once a member, always a member, and so are its children.

    An orphan of the tree is handed to the supervisor (a subreaper). It is told from the supervisor's own children by
    its session, or by the mark that the run's environment carries.

    :param root: pid of the command's first process, the leader of a session of its own.
    :param reaper: pid of the supervisor.
    :param mark: ``NAME=value`` that only this run's environment has; empty for none.
    :param outside: pids below the supervisor that are none of the run's (the sampler).
    """

    def __init__(self, *, root: int, reaper: int, mark: str = "", outside: Iterable[int] = ()) -> None:
        self._root = root
        self._reaper = reaper
        self._mark = mark.encode()
        self._outside = set(outside)
        self._began: float | None = None
        self._members: dict[int, Member] = {}

    def look(self, processes: dict[int, Member] | None = None) -> list[Member]:
        """The members alive now, by pid."""
        seen = read_processes() if processes is None else processes
        self._members = {
            pid: seen[pid]
            for pid, member in self._members.items()
            if pid in seen and seen[pid].start_time == member.start_time
        }
        root = seen.get(self._root)
        if self._began is None and root is not None:
            self._began = root.start_time
            self._members[root.pid] = root
        for member in seen.values():
            if member.ppid == self._reaper and member.pid not in self._members and self._ours(member):
                self._members[member.pid] = member
        for pid in [*self._members]:
            for member in descendants(pid, seen):
                self._members.setdefault(member.pid, member)
        for pid in self._outside:
            self._members.pop(pid, None)
        return sorted(self._members.values(), key=lambda member: member.pid)

    def remember(self, members: Iterable[Member]) -> None:
        """Members that somebody else saw: they stay members when they are orphaned."""
        for member in members:
            if member.pid not in self._outside:
                self._members.setdefault(member.pid, member)

    def _ours(self, member: Member) -> bool:
        if self._began is None or member.start_time < self._began or member.pid in self._outside:
            return False
        with contextlib.suppress(OSError, AttributeError):
            if os.getsid(member.pid) == self._root:
                return True
            environment = Path("/proc", str(member.pid), "environ").read_bytes().split(b"\0")
            return bool(self._mark) and self._mark in environment
        return False


def adopt_orphans(*, on: bool) -> bool:
    """Make this process the one that orphans below it are handed to (Linux). Says whether it is."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0)


def die_with_parent() -> Callable[[], None] | None:
    """For ``preexec_fn``: the child is killed by the kernel when the supervisor is (Linux); None elsewhere."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    kill = int(signal.SIGKILL)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)

    return arrange


def end_tree(members: Iterable[Member], *, grace_s: float) -> int:
    """Ask every member to end, wait, then kill; reap what was handed to us. Returns how many were alive."""
    alive = [member for member in members if _alive(member)]
    for member in alive:
        _send(member, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    left = alive
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [member for member in left if _alive(member)]
    for member in left:
        _send(member, getattr(signal, "SIGKILL", signal.SIGTERM))
    deadline = time.monotonic() + 2.0
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [member for member in left if _alive(member)]
    return len(alive)


def _alive(member: Member) -> bool:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # only our own children answer; a zombie of ours ends here
            os.waitpid(member.pid, os.WNOHANG)
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(member.pid)
        found = read_processes().get(member.pid)
        # The same process by pid and start: its parent may have died since, and then it has another.
        same = found is not None and found.start_time == member.start_time
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False


def _send(member: Member, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(member.pid, number)
