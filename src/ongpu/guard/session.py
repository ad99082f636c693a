"""One command under guard: started, passed through, watched from outside and inside, and ended with all it began.

``run_guarded`` decides nothing: it hands every reading to the recorder as it comes and says how the command ended.
What the readings prove is the judge's to say (:mod:`ongpu.domain.judge`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from ongpu.domain.witness import Recorder
from ongpu.errors import UsageError
from ongpu.guard.feed import TICK_S, Feed
from ongpu.guard.model import GuardEvent, GuardResult, GuardSettings
from ongpu.guard.output import Keep, Stream, open_streams, popen_streams
from ongpu.guard.tree import Member, Watched, adopt_orphans, die_with_parent, end_tree, read_processes
from ongpu.guard.watcher import HOOK_VARIABLE, Watcher, hooked_environment, new_hook_folder

__all__ = ["GuardEvent", "GuardResult", "GuardSettings", "run_guarded"]

_FORWARDED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGWINCH") if hasattr(signal, name)
)


def _ignore(event: GuardEvent) -> None:
    """For callers that act on nothing."""


def run_guarded(
    command: Sequence[str],
    *,
    settings: GuardSettings,
    recorder: Recorder,
    console: BinaryIO | None = None,
    console_err: BinaryIO | None = None,
    on_event: Callable[[GuardEvent], None] = _ignore,
) -> GuardResult:
    """Run ``command`` to its end under guard.

    :param console: where its stdout is passed on, byte for byte; its stderr goes to ``console_err``, or here too.
    :raises UsageError: the command cannot be started, or the log file not be created. Nothing ran.
    """
    if not command:
        raise UsageError("There is no command to run.", next_step="Give one after `--`.")
    session = _Session(command, settings=settings, recorder=recorder, on_event=on_event)
    return session.run(console=console, console_err=console_err)


class _Session:
    def __init__(
        self,
        command: Sequence[str],
        *,
        settings: GuardSettings,
        recorder: Recorder,
        on_event: Callable[[GuardEvent], None],
    ) -> None:
        self._command = tuple(command)
        self._settings = settings
        self._recorder = recorder
        self._on_event = on_event
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._interrupts = 0
        self._interrupted = False
        self._stopped: tuple[str, str] | None = None
        self._kill_at: float | None = None
        self._watched: Watched | None = None
        self._child_pid = 0

    def run(self, *, console: BinaryIO | None, console_err: BinaryIO | None) -> GuardResult:
        keep = Keep(self._settings.log_path)
        before = set(read_processes())
        watcher = Watcher(baseline_s=self._settings.baseline_s, command=self._settings.sampler_command)
        folder = new_hook_folder(self._settings.scratch)
        subreaper = adopt_orphans(on=True)
        feed = Feed(
            role=self._settings.role,
            recorder=self._recorder,
            watcher=watcher,
            folder=folder,
            patience_s=self._settings.sampler_patience_s,
            on_first_step=self._first_step,
            on_tree=self._remember,
        )
        try:
            with self._forwarding():
                feed.baseline(
                    timeout_s=self._settings.baseline_s + self._settings.sampler_patience_s,
                    stop=lambda: not self._signals.empty(),
                )
                return self._run(keep, watcher, feed, folder, before, console=console, console_err=console_err)
        finally:
            watcher.close()
            keep.close()
            if subreaper:
                adopt_orphans(on=False)
            shutil.rmtree(folder, ignore_errors=True)

    # -- signals ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Signals reach the command; ours is to note them. Only the main thread can have handlers.

        One that is ignored already stays so, here and in the command, which inherits that: ``nohup`` means the hangup.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.put(number)

        heeded = [number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _forward(self, child: subprocess.Popen[bytes], streams: Sequence[Stream]) -> None:
        while not self._signals.empty():
            number = self._signals.get()
            if number == getattr(signal, "SIGWINCH", None):
                for stream in streams:
                    stream.resize()
            else:
                self._interrupts += 1
                self._interrupted = True
                if self._kill_at is None:
                    self._kill_at = time.monotonic() + self._settings.grace_s
                if self._interrupts >= 3:
                    self._kill_at = time.monotonic()  # the user means it
            _signal_group(child, number)

    # -- before ----------------------------------------------------------------------------------------------

    def _start(self, streams: Mapping[str, int], folder: Path) -> subprocess.Popen[bytes]:
        settings = self._settings
        try:
            return subprocess.Popen(
                self._command,
                cwd=settings.cwd,
                env=hooked_environment(settings.environment, folder=folder, trace_steps=settings.trace_steps),
                stdout=streams["stdout"],
                stderr=streams["stderr"],
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call that takes no lock
            )
        except (OSError, ValueError) as error:
            missing = settings.cwd is not None and not settings.cwd.is_dir()
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"The folder {settings.cwd} does not exist."
                if missing
                else f"{self._command[0]!r} cannot be run: {reason}.",
                next_step="Check the command after `--`: it is run as it stands, without a shell.",
            ) from error

    # -- the run ----------------------------------------------------------------------------------------------

    def _run(
        self,
        keep: Keep,
        watcher: Watcher,
        feed: Feed,
        folder: Path,
        before: set[int],
        *,
        console: BinaryIO | None,
        console_err: BinaryIO | None,
    ) -> GuardResult:
        out, err = open_streams(console=console, console_err=console_err, keep=keep)
        streams = [out] if err is None else [out, err]
        began = time.monotonic()
        try:
            child = self._start(popen_streams(out, err), folder)
        except UsageError:
            for stream in streams:
                stream.abandon()
            keep.discard()  # nothing ran: nothing is left of it
            raise
        for stream in streams:
            stream.start()
        mark = f"{HOOK_VARIABLE}={folder}"
        watched = Watched(root=child.pid, reaper=os.getpid(), mark=mark, outside={*before, watcher.pid})
        self._watched = watched
        self._child_pid = child.pid
        try:
            self._started(child, watched)
            watcher.tell({"watch": child.pid, "reaper": os.getpid(), "mark": mark, "end_tree": True})
            self._until_exit(child, feed, streams, began)
            seconds = time.monotonic() - began
            status, signal_name = _status(child.returncode)
            self._recorder.record(
                "child.exit",
                {
                    "role": self._settings.role,
                    "pid": child.pid,
                    "status": status,
                    "signal": signal_name,
                    "seconds": round(seconds, 6),
                    "interrupted": self._interrupted,
                    "stopped": self._stopped[0] if self._stopped else None,
                    "stopped_reason": self._stopped[1] if self._stopped else None,
                },
            )
            left_behind = self._end_rest(watched, streams)
        finally:
            if child.poll() is None:  # an error of ours: nothing of the command may outlive it
                end_tree(watched.look(), grace_s=1.0)
                child.wait()
        feed.finish()
        keep.close()
        feed.close(
            left_behind=left_behind,
            log_bytes=keep.total_bytes,
            log_sha256=keep.sha256,
            log_dropped_bytes=keep.dropped_bytes,
            log_error=keep.error,
        )
        return GuardResult(
            status=status,
            signal=signal_name,
            seconds=seconds,
            interrupted=self._interrupted,
            stopped=self._stopped[0] if self._stopped else None,
            stopped_reason=self._stopped[1] if self._stopped else None,
            log_path=self._settings.log_path,
            log_bytes=keep.total_bytes,
            log_sha256=keep.sha256,
            log_error=keep.error,
            hook_seen=bool(feed.tail.counts),
            hook_records=sum(feed.tail.counts.values()),
            sampler_error=watcher.error,
            left_behind=left_behind,
        )

    def _started(self, child: subprocess.Popen[bytes], watched: Watched) -> None:
        members = {member.pid: member for member in watched.look()}
        me = members.get(child.pid)
        seq = self._recorder.record(
            "child.start",
            {
                "role": self._settings.role,
                "argv": list(self._command),
                "pid": child.pid,
                "start_time": me.start_time if me else None,
                "supervisor_pid": os.getpid(),
                "trace_steps": self._settings.trace_steps,
            },
        )
        self._on_event(GuardEvent(kind="started", pid=child.pid, seq=seq))

    def _first_step(self, seq: int) -> None:
        self._on_event(GuardEvent(kind="first-step-on-cuda", pid=self._child_pid, seq=seq))

    def _remember(self, members: list[Member]) -> None:
        if self._watched is not None:
            self._watched.remember(members)

    def _until_exit(self, child: subprocess.Popen[bytes], feed: Feed, streams: Sequence[Stream], began: float) -> None:
        while child.poll() is None:
            self._forward(child, streams)
            feed.take(wait_s=TICK_S)
            now = time.monotonic()
            self._consider_stopping(child, feed, now - began)
            if self._kill_at is not None and now >= self._kill_at:
                _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))
                self._kill_at = now + 1.0

    def _consider_stopping(self, child: subprocess.Popen[bytes], feed: Feed, elapsed_s: float) -> None:
        settings = self._settings
        if self._stopped is not None or self._interrupted:
            return
        if settings.timeout_s is not None and elapsed_s >= settings.timeout_s:
            self._stopped = ("timeout", f"it ran longer than {settings.timeout_s:g} s")
        elif settings.fail_fast_s is not None and elapsed_s >= settings.fail_fast_s and feed.look.quiet:
            self._stopped = ("fail-fast", f"after {settings.fail_fast_s:g} s {feed.look.reason}")
        if self._stopped is not None:
            _signal_group(child, signal.SIGTERM)
            self._kill_at = time.monotonic() + min(settings.grace_s, 10.0)

    # -- after ------------------------------------------------------------------------------------------------

    def _end_rest(self, watched: Watched, streams: Sequence[Stream]) -> int:
        """What of the tree outlived its first process: a short while for an orderly end, then ended."""
        deadline = time.monotonic() + self._settings.linger_s
        members = watched.look()
        while members and time.monotonic() < deadline and not self._interrupted:
            for member in members:
                with contextlib.suppress(OSError, AttributeError):
                    os.waitpid(member.pid, os.WNOHANG)  # orphans that ended are ours to reap
            time.sleep(TICK_S)
            members = watched.look()
        left_behind = end_tree(members, grace_s=min(self._settings.grace_s, 3.0)) if members else 0
        for stream in streams:
            stream.join(2.0)
        return left_behind


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """To the command's whole process group, of which it is the leader."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)


def _status(returncode: int) -> tuple[int, str | None]:
    if returncode >= 0:
        return returncode, None
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return 128 - returncode, name
