"""A running child: its pipes, and the tree of processes below it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # 10 ms, for children that outlive their time: most never do
    import psutil

# What is kept of each stream: the last 64 MiB. A child that prints without end must not fill the memory.
_KEPT_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16


class Pumps:
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


class Ending:
    """The end of a child, to wait for: seen at once on Linux, where ``Popen.wait`` looks only every 50 ms."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._descriptor: int | None = None
        if sys.platform == "linux" and child.returncode is None:
            with contextlib.suppress(OSError):  # Linux 5.3; some sandboxes refuse it
                self._descriptor = os.pidfd_open(child.pid)

    def wait(self, within_s: float) -> None:
        """Return when the child has ended, or after ``within_s`` seconds."""
        if self._descriptor is None or sys.platform == "win32":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=within_s)
            return
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.poll(math.ceil(within_s * 1000))

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Tree:
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
        import psutil  # noqa: PLC0415 - see above

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
        import psutil  # noqa: PLC0415 - see above

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
        _each(strays, lambda stray: stray.terminate())

    def _kill(self, strays: Sequence[psutil.Process]) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        _each(strays, lambda stray: stray.kill())
        with contextlib.suppress(OSError):
            self._child.kill()


def _each(strays: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    import psutil  # noqa: PLC0415 - see above

    for stray in strays:
        with contextlib.suppress(psutil.Error):
            do(stray)


def _runs(process: psutil.Process) -> bool:
    import psutil  # noqa: PLC0415 - see above

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
