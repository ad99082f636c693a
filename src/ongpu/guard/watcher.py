"""The sampler's process, seen from the supervisor: started, fed, read, and given up on when it is silent."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import ongpu

_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "sys.argv[0] = 'ongpu.guard.sampler'; runpy.run_module('ongpu.guard.sampler', run_name='__main__')"
)
MAX_LINE = 4 << 20
HOOK_VARIABLE = "ONGPU_HOOK_DIR"
TRACE_VARIABLE = "ONGPU_HOOK_TRACE"


class Watcher:
    """One sampler process. Its lines arrive in ``lines``, the end of them as ``None``.

    :param command: another command in the sampler's place, for tests of a sampler that hangs or dies.
    """

    def __init__(self, *, baseline_s: float, command: tuple[str, ...] | None = None) -> None:
        source = str(Path(ongpu.__file__).resolve().parent.parent)
        argv = command or (sys.executable, "-P", "-c", _START, source, str(baseline_s))
        self.lines: queue.SimpleQueue[dict[str, object] | None] = queue.SimpleQueue()
        self.error: str | None = None
        self.count = 0
        self.ended = False
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a signal to our terminal is not for it; it leaves when its stdin ends
        )
        self._errors = b""
        assert self._process.stdout is not None and self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its pid, which is none of the run's."""
        return self._process.pid

    def _read(self, stdout: IO[bytes]) -> None:
        while line := stdout.readline(MAX_LINE):
            try:
                value = json.loads(line)
            except ValueError:
                self.error = "the sampler wrote a line that is not JSON"
                break
            if isinstance(value, dict):
                self.lines.put(value)
        self.lines.put(None)

    def _read_errors(self, stderr: IO[bytes]) -> None:
        while data := stderr.read(4096):
            self._errors = (self._errors + data)[-4096:]

    def next_line(self, timeout_s: float) -> dict[str, object] | None:
        """The next line, or ``None`` when none came in time or it has ended."""
        try:
            line = self.lines.get(timeout=timeout_s) if timeout_s > 0 else self.lines.get_nowait()
        except queue.Empty:
            return None
        if line is None:
            self.ended = True
            return None
        self.count += line.get("kind") != "alive"  # which is no reading, and has no number
        return line

    def tell(self, command: Mapping[str, object]) -> None:
        """Send it a line; a sampler that is gone is noticed when it is read."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """No more commands: it takes its last readings and leaves."""
        assert self._process.stdin is not None
        self.tell({"finish": True})
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self) -> None:
        """End it whatever it does. Its last words on stderr become the error, where it failed."""
        self.finish()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self.error is None and status != 0:
            last = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
            signal_text = f"signal {-status}" if status < 0 else f"status {status}"
            self.error = f"the sampler ended with {signal_text}" + (f": {last[:300]}" if last else "")


def new_hook_folder(parent: Path | None = None) -> Path:
    """A folder that only this user may enter, for the hook's files."""
    import tempfile  # noqa: PLC0415 - only a run needs it

    return Path(tempfile.mkdtemp(prefix="ongpu-hook-", dir=parent))


def hooked_environment(
    environment: Mapping[str, str], *, folder: Path, trace_steps: int | None = None
) -> dict[str, str]:
    """The child's environment with the hook first on its ``PYTHONPATH``."""
    hook = str(Path(__file__).resolve().parent / "hook")
    before = environment.get("PYTHONPATH")
    hooked = {
        **environment,
        "PYTHONPATH": hook + (os.pathsep + before if before else ""),
        HOOK_VARIABLE: str(folder),
        TRACE_VARIABLE: str(trace_steps),
    }
    if trace_steps is None:
        del hooked[TRACE_VARIABLE]  # a guard around this one may have set it
    return hooked
