"""The door to child processes: both pipes read at once, a limit in time, and nothing left behind.

A child runs in a session of its own, so that Ctrl-C at the terminal reaches the tool alone and the whole tree
can be ended by one signal to its group. A descendant that left the group is still found while its ancestors
live (by parent pid); one that did both, left the group and was orphaned, is out of reach and is not claimed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ongpu.errors import DoorError
from ongpu.machine.child import Ending, Pumps, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A child that has ended.

    :param status: the exit status; on POSIX the negative signal number where a signal ended it.
    :param seconds: from the start to the end of the leader, by the monotonic clock.
    :param timed_out: the limit was reached and the tree was killed; ``status`` is then that of the kill (-9 also
        where the kernel would not let the child die).
    :param dropped_bytes: how much of the *beginning* of the two streams was dropped to bound the memory.
    """

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool
    dropped_bytes: int = 0


class Processes(Protocol):
    """What the rooms ask of processes."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        """Run a child to its end, with its standard input empty.

        :param timeout_s: seconds until the whole tree is killed; ``None`` waits for ever.
        :param env: the child's whole environment; ``None`` hands on the tool's own.
        :param on_output: gets every chunk of both streams as it arrives, one call at a time, from a thread.
        :param on_start: gets the child's pid, in the caller's thread, before any output.
        :raises DoorError: door ``process``, code ``not-found``, ``not-executable``, ``bad-directory`` or
            ``bad-argument``: nothing was started.
        """
        ...


class RealProcesses:
    """Processes of this machine.

    What ``on_output`` or ``on_start`` raises ends the child and is raised again here, as is an interrupt.

    :param term_grace_s: seconds between the request to end and the kill.
    :param drain_s: seconds that descendants may outlive the leader, to flush what they hold, before they are
        ended. A descendant that keeps a pipe open cannot hold up the caller for longer than these two.
    """

    def __init__(self, *, term_grace_s: float = 5.0, drain_s: float = 2.0) -> None:
        self._term_grace_s = term_grace_s
        self._drain_s = drain_s
        self._running: set[threading.Event] = set()
        self._ahead: dict[tuple[str, ...], tuple[dict[str, str], subprocess.Popen[bytes]]] = {}
        self._lock = threading.Lock()

    def start_ahead(self, argv: Sequence[str], *, env: Mapping[str, str]) -> None:
        """Start a child for a :meth:`run` of the same words and environment that comes later, and is not obliged to.

        For what is sure to be asked before it can be led: its answer must fit into a pipe (64 KiB), where it waits.
        One that cannot be started is started again, and refused, by that ``run``.
        """
        command = tuple(os.fspath(word) for word in argv)
        with contextlib.suppress(DoorError):
            child = _start(command, env=env, cwd=None)
            with self._lock:
                self._ahead[command] = (dict(env), child)

    def _taken(self, command: tuple[str, ...], env: Mapping[str, str] | None) -> subprocess.Popen[bytes] | None:
        with self._lock:
            known, child = self._ahead.get(command, (None, None))
            if child is None or known != env:
                return None
            del self._ahead[command]
            return child

    def end_ahead(self) -> None:
        """End and reap what was started ahead and never asked for."""
        with self._lock:
            left = [child for _, child in self._ahead.values()]
            self._ahead.clear()
        for child in left:
            Tree(child, grace_s=self._term_grace_s).end()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()

    def end_all(self) -> None:
        """End every child that runs now, whichever thread waits for it.

        For whoever is interrupted while other threads wait: an interrupt reaches the main thread alone. Those
        threads get a :class:`DoorError` of code ``interrupted``.
        """
        with self._lock:
            for ended in self._running:
                ended.set()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        """Run a child to its end; see :meth:`Processes.run`."""
        command = tuple(os.fspath(word) for word in argv)
        asked_to_end = threading.Event()
        with self._lock:
            self._running.add(asked_to_end)
        try:
            ahead = self._taken(command, env) if cwd is None else None
            child = ahead if ahead is not None else _start(command, env=env, cwd=cwd)
            return self._lead(child, command, asked_to_end, timeout_s=timeout_s, on_output=on_output, on_start=on_start)
        finally:
            with self._lock:
                self._running.discard(asked_to_end)

    def _lead(
        self,
        child: subprocess.Popen[bytes],
        command: tuple[str, ...],
        asked_to_end: threading.Event,
        *,
        timeout_s: float | None,
        on_output: Callable[[bytes], None] | None,
        on_start: Callable[[int], None] | None,
    ) -> Completed:
        started = time.monotonic()
        tree = Tree(child, grace_s=self._term_grace_s)
        if on_start is not None:  # before any output is read: whoever reads it may need the pid
            try:
                on_start(child.pid)
            except BaseException:
                tree.end()
                raise
        pumps = Pumps(child, on_output)
        ending = Ending(child)
        timed_out = False
        try:
            deadline = None if timeout_s is None else started + timeout_s
            while child.poll() is None and pumps.failure is None and not asked_to_end.is_set():
                left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
                if left <= 0:
                    timed_out = True
                    break
                ending.wait(left)
            ended = time.monotonic()
            cut_short = timed_out or pumps.failure is not None or asked_to_end.is_set()
            if cut_short or not (pumps.finish(self._drain_s) and tree.gone(within_s=self._drain_s)):
                tree.end()
        finally:
            # Reached with a living child only by an exception: an interrupt, or one that a callback raised.
            if child.poll() is None:
                tree.end()
            ending.close()
            pumps.stop()
        if pumps.failure is not None:
            raise pumps.failure
        if asked_to_end.is_set():
            raise DoorError(door="process", code="interrupted", reason=f"{command[0]} was ended on request")
        return Completed(
            argv=command,
            status=-9 if (status := child.poll()) is None else status,
            stdout=bytes(pumps.kept[0]),
            stderr=bytes(pumps.kept[1]),
            seconds=ended - started,
            timed_out=timed_out,
            dropped_bytes=pumps.dropped_bytes,
        )


def _start(command: tuple[str, ...], *, env: Mapping[str, str] | None, cwd: Path | None) -> subprocess.Popen[bytes]:
    if not command:
        raise DoorError(door="process", code="bad-argument", reason="the command is empty")
    if cwd is not None and not cwd.is_dir():
        raise DoorError(door="process", code="bad-directory", reason=f"{cwd} is not a directory")
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=sys.platform != "win32",
            creationflags=flags,
            bufsize=0,
        )
    except FileNotFoundError as error:
        raise DoorError(door="process", code="not-found", reason=f"{command[0]}: {error.strerror}") from error
    except OSError as error:  # PermissionError, NotADirectoryError, ENOEXEC, E2BIG
        raise DoorError(door="process", code="not-executable", reason=f"{command[0]}: {error.strerror}") from error
    except ValueError as error:  # a NUL byte, or '=' in the name of a variable
        raise DoorError(door="process", code="bad-argument", reason=str(error)) from error
