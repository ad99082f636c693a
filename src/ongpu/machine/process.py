"""The door to child processes: both pipes read at once, a limit in time, and nothing left behind.

A child runs in a session of its own, so that Ctrl-C at the terminal reaches the tool alone and the whole tree
can be ended by one signal to its group. A descendant that left the group is still found while its ancestors
live (by parent pid); one that did both, left the group and was orphaned, is out of reach and is not claimed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import psutil

from ongpu.errors import DoorError

# What is kept of each stream: the last 64 MiB. A child that prints without end must not fill the memory.
_KEPT_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16


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
        :param on_start: gets the child's pid, in the caller's thread, right after the start.
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
        started = time.monotonic()
        child = _start(command, env=env, cwd=cwd)
        tree = _Tree(child, grace_s=self._term_grace_s)
        pumps = _Pumps(child, on_output)
        timed_out = False
        try:
            if on_start is not None:
                on_start(child.pid)
            deadline = None if timeout_s is None else started + timeout_s
            while child.poll() is None and pumps.failure is None:
                left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
                if left <= 0:
                    timed_out = True
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=left)
            ended = time.monotonic()
            cut_short = timed_out or pumps.failure is not None
            if cut_short or not (pumps.finish(self._drain_s) and tree.gone(within_s=self._drain_s)):
                tree.end()
        finally:
            # Reached with a living child only by an exception: an interrupt, or one that a callback raised.
            if child.poll() is None:
                tree.end()
            pumps.stop()
        if pumps.failure is not None:
            raise pumps.failure
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


class _Pumps:
    """One reading thread a pipe, so that neither can fill up while the other is read."""

    def __init__(self, child: subprocess.Popen[bytes], on_output: Callable[[bytes], None] | None) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self.kept = (bytearray(), bytearray())
        self.dropped_bytes = 0
        self.failure: BaseException | None = None
        self._on_output = on_output
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._pump, args=(pipe, kept), daemon=True, name="ongpu-pipe")
            for pipe, kept in zip((child.stdout, child.stderr), self.kept, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _pump(self, pipe: IO[bytes], kept: bytearray) -> None:
        with pipe:
            while self._readable(pipe):
                try:
                    chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
                except OSError:  # the other end broke: the same as its end
                    return
                if not chunk:
                    return
                self._take(chunk, kept)

    def _readable(self, pipe: IO[bytes]) -> bool:
        """Wait for something to read, in turns short enough to notice that nobody waits for it any more."""
        if sys.platform == "win32":  # pipes cannot be waited for: the thread ends with the pipe or the tool
            return not self._stopped.is_set()
        poller = select.poll()
        poller.register(pipe.fileno(), select.POLLIN | select.POLLHUP)
        while not self._stopped.is_set():
            if poller.poll(100):
                return True
        return False

    def _take(self, chunk: bytes, kept: bytearray) -> None:
        with self._lock:
            kept += chunk
            if len(kept) > _KEPT_BYTES + (8 << 20):
                self.dropped_bytes += len(kept) - _KEPT_BYTES
                del kept[:-_KEPT_BYTES]
            if self._on_output is not None and self.failure is None:
                try:
                    self._on_output(chunk)
                except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread and raised there
                    self.failure = error

    def finish(self, within_s: float) -> bool:
        """Wait until both pipes have ended; false where somebody still holds one."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Read what is left of ended pipes, then give the others up."""
        self.finish(0.5)
        self._stopped.set()
        self.finish(0.5)


class _Tree:
    """The child, its group, and its descendants by parent pid."""

    def __init__(self, child: subprocess.Popen[bytes], *, grace_s: float) -> None:
        self._child = child
        self._grace_s = grace_s

    def end(self) -> None:
        """Ask everything to end, and kill what has not within the grace. Reaps the leader, if it dies."""
        strays = self._descendants()
        try:
            self._ask(strays)
            if self.gone(within_s=self._grace_s, strays=strays):
                return
        finally:  # an interrupt during the grace shortens it
            self._kill([*strays, *self._descendants()])
            with contextlib.suppress(subprocess.TimeoutExpired):
                # A process that hangs inside a broken driver does not die even of SIGKILL.
                self._child.wait(timeout=2.0)

    def gone(self, *, within_s: float, strays: Sequence[psutil.Process] = ()) -> bool:
        """Whether nothing of the tree runs any more, asked until ``within_s`` seconds have passed."""
        deadline = time.monotonic() + within_s
        while True:
            if self._child.poll() is not None and not self._group() and not any(map(_runs, strays)):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    def _descendants(self) -> list[psutil.Process]:
        if self._child.poll() is not None:
            return []
        try:
            return psutil.Process(self._child.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _group(self) -> bool:
        """Whether a process of the group runs (a zombie that nobody reaps does not)."""
        if sys.platform == "win32":
            return False
        try:
            os.killpg(self._child.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getpgid(pid) == self._child.pid and _runs(psutil.Process(pid)):
                    return True
        return False

    def _ask(self, strays: Sequence[psutil.Process]) -> None:
        if sys.platform == "win32":
            with contextlib.suppress(OSError, ValueError):
                self._child.send_signal(signal.CTRL_BREAK_EVENT)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGTERM)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.terminate()

    def _kill(self, strays: Sequence[psutil.Process]) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        with contextlib.suppress(OSError):
            self._child.kill()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
