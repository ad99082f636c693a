"""Recordings of the doors: made on a real machine by the real classes, replayed anywhere.

A recording is JSON: ``{"schema": "ongpu/recording/1", "title", "calls": [{"door", "call", "arguments", "answer"} or
{..., "error": {"code", "reason"}}]}``. A call is found by door, name and arguments; the same call made again gets the
next answer recorded for it, and the last one from then on (the state of a machine that was not asked more often).
A call that was never recorded is a :class:`LookupError`: record again, do not invent.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError
from ongpu.machine.driver_check import PAYLOAD
from ongpu.machine.host import Host, PlatformFacts
from ongpu.machine.nvml import Nvml, NvmlDevice, ProcessMemory
from ongpu.machine.process import Completed, Processes

SCHEMA: Final = "ongpu/recording/1"
_TEMPORARY: Final = re.compile(r"\S*[/\\]ongpu-[a-z]+-\w+(?=[/\\])")
_T = TypeVar("_T")


def _encode(value: object) -> object:
    if isinstance(value, ComputeCapability):
        return str(value)
    raise NotImplementedError(f"a recording has no form for {type(value).__name__}")


def decode(kind: type, value: object) -> object:
    """What msgspec asks for a class it does not know."""
    if kind is ComputeCapability and isinstance(value, str):
        return ComputeCapability.parse(value)
    raise NotImplementedError(f"a recording has no form for {kind.__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A child as it is recorded: its output as text that gives the same bytes back."""

    pid: int
    status: int
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool


def command(argv: Iterable[str]) -> list[str]:
    """A command without what differs from run to run and from checkout to checkout."""
    return [_TEMPORARY.sub("{temporary}", os.fspath(word).replace(str(PAYLOAD), "{payload}")) for word in argv]


class Book:
    """What was asked and answered so far."""

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []
        self._lock = threading.Lock()

    def take(self, door: str, call: str, arguments: Sequence[object], ask: Callable[[], _T]) -> _T:
        """Ask, write down, and hand on what came: an answer or a :class:`DoorError`."""
        line: dict[str, object] = {"door": door, "call": call, "arguments": list(arguments)}
        try:
            answer = ask()
        except DoorError as error:
            line["error"] = {"code": error.code, "reason": error.reason}
            raise
        else:
            line["answer"] = msgspec.to_builtins(answer, enc_hook=_encode)
            return answer
        finally:
            with self._lock:
                # A host's files stand still while they are read: asked twice, they are written down once.
                if door != "host" or line not in self.calls:
                    self.calls.append(line)

    def text(self, *, title: str) -> str:
        """The recording as JSON."""
        document = {"schema": SCHEMA, "title": title, "calls": self.calls}
        return json.dumps(document, indent=1) + "\n"  # escapes what is not ASCII, and so keeps bytes that are no text


class RecordingHost:
    """A host that is written down. :param variables: the environment variables that may be kept."""

    def __init__(self, host: Host, book: Book, *, variables: frozenset[str]) -> None:
        self._host = host
        self._book = book
        self._variables = variables

    def read_text(self, path: str) -> str:
        """See :class:`Host`."""
        return self._book.take("host", "read_text", [path], lambda: self._host.read_text(path))

    def exists(self, path: str) -> bool:
        """See :class:`Host`."""
        return self._book.take("host", "exists", [path], lambda: self._host.exists(path))

    def list_dir(self, path: str, *, prefix: str = "") -> tuple[str, ...]:
        """See :class:`Host`."""
        return self._book.take("host", "list_dir", [path, prefix], lambda: self._host.list_dir(path, prefix=prefix))

    def real_path(self, path: str) -> str:
        """See :class:`Host`."""
        return self._book.take("host", "real_path", [path], lambda: self._host.real_path(path))

    def mapped_file(self, name: str) -> str | None:
        """See :class:`Host`."""
        return self._book.take("host", "mapped_file", [name], lambda: self._host.mapped_file(name))

    def sha256(self, path: str) -> str:
        """See :class:`Host`."""
        return self._book.take("host", "sha256", [path], lambda: self._host.sha256(path))

    def environment(self) -> Mapping[str, str]:
        """See :class:`Host`; all others are kept out of the recording, and out of this answer."""
        whole = self._host.environment()
        return self._book.take(
            "host", "environment", [], lambda: {name: whole[name] for name in sorted(self._variables & set(whole))}
        )

    def platform(self) -> PlatformFacts:
        """See :class:`Host`."""
        return self._book.take("host", "platform", [], self._host.platform)


class RecordingProcesses:
    """Processes that are written down.

    :param rest: what each child gets beside what its caller gives it: the rest of the real environment, without
        the variables that are kept in the recording, which the caller sees and may have taken out.
    """

    def __init__(self, processes: Processes, book: Book, *, rest: Mapping[str, str]) -> None:
        self._processes = processes
        self._book = book
        self._rest = dict(rest)

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
        """See :class:`Processes`."""
        pids: list[int] = []
        kept: list[Completed] = []

        def started(pid: int) -> None:
            pids.append(pid)
            if on_start is not None:
                on_start(pid)

        def ask() -> RecordedRun:
            done = self._processes.run(
                argv,
                timeout_s=timeout_s,
                env=None if env is None else {**self._rest, **env},
                cwd=cwd,
                on_output=on_output,
                on_start=started,
            )
            kept.append(done)
            return RecordedRun(
                pid=pids[0],
                status=done.status,
                stdout=done.stdout.decode("utf-8", "surrogateescape"),
                stderr=done.stderr.decode("utf-8", "surrogateescape"),
                seconds=round(done.seconds, 3),
                timed_out=done.timed_out,
            )

        self._book.take("process", "run", command(argv), ask)
        return kept[0]


class RecordingNvml:
    """NVML that is written down."""

    def __init__(self, nvml: Nvml, book: Book) -> None:
        self._nvml = nvml
        self._book = book

    def kernel_mode_version(self) -> str:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "kernel_mode_version", [], self._nvml.kernel_mode_version)

    def devices(self) -> tuple[NvmlDevice, ...]:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "devices", [], self._nvml.devices)

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "processes", [uuid], lambda: self._nvml.processes(uuid))

    def memory_used(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "memory_used", [uuid], lambda: self._nvml.memory_used(uuid))

    def utilization(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "utilization", [uuid], lambda: self._nvml.utilization(uuid))

    def power_mw(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "power_mw", [uuid], lambda: self._nvml.power_mw(uuid))

    def energy_mj(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._book.take("nvml", "energy_mj", [uuid], lambda: self._nvml.energy_mj(uuid))

    def close(self) -> None:
        """See :class:`Nvml`."""
        self._book.take("nvml", "close", [], self._nvml.close)


def recorded_opening(opener: Callable[[], Nvml], book: Book) -> Callable[[], Nvml]:
    """An opener of NVML whose opening is written down as well."""

    def opened() -> Nvml:
        doors: list[Nvml] = []
        book.take("nvml", "open", [], lambda: doors.append(opener()))
        return RecordingNvml(doors[0], book)

    return opened
