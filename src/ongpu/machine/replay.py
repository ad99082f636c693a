"""Replay of a recording: the same doors, without the machine."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ongpu.errors import DoorError
from ongpu.machine.host import PlatformFacts
from ongpu.machine.nvml import Nvml, NvmlDevice, ProcessMemory
from ongpu.machine.process import Completed
from ongpu.machine.recording import SCHEMA, RecordedRun, command, decode

_T = TypeVar("_T")


class Replay:
    """A recording as the three doors it was made of: it is a host, and has ``processes`` and ``open_nvml``.

    :param text: the recording. :raises ValueError: it is not one.
    """

    def __init__(self, text: str) -> None:
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"not a recording: its schema is not {SCHEMA!r}")
        self.title = str(document["title"])
        self._answers: dict[tuple[str, str, str], deque[dict[str, object]]] = defaultdict(deque)
        self._lock = threading.Lock()
        for line in document["calls"]:
            self._answers[self._key(line["door"], line["call"], line["arguments"])].append(line)
        self.processes = ReplayProcesses(self)

    @staticmethod
    def _key(door: str, call: str, arguments: Sequence[object]) -> tuple[str, str, str]:
        return door, call, json.dumps(list(arguments))

    def answer(self, door: str, call: str, arguments: Sequence[object], kind: type[_T]) -> _T:
        """The recorded answer to a call. :raises LookupError: it was never recorded."""
        with self._lock:
            lines = self._answers.get(self._key(door, call, arguments))
            if not lines:
                raise LookupError(f"the recording {self.title!r} has no answer to {door}.{call}({arguments!r})")
            line = lines.popleft() if len(lines) > 1 else lines[0]
        error = line.get("error")
        if isinstance(error, dict):
            raise DoorError(door=_DOOR_OF_ERROR.get(door, door), code=error["code"], reason=error["reason"])
        return msgspec.convert(line["answer"], kind, dec_hook=decode)

    def read_text(self, path: str) -> str:
        """See :class:`Host`."""
        return self.answer("host", "read_text", [path], str)

    def exists(self, path: str) -> bool:
        """See :class:`Host`."""
        return self.answer("host", "exists", [path], bool)

    def list_dir(self, path: str, *, prefix: str = "") -> tuple[str, ...]:
        """See :class:`Host`."""
        return self.answer("host", "list_dir", [path, prefix], tuple[str, ...])

    def real_path(self, path: str) -> str:
        """See :class:`Host`."""
        return self.answer("host", "real_path", [path], str)

    def mapped_file(self, name: str) -> str | None:
        """See :class:`Host`."""
        return self.answer("host", "mapped_file", [name], str | None)  # type: ignore[arg-type]

    def sha256(self, path: str) -> str:
        """See :class:`Host`."""
        return self.answer("host", "sha256", [path], str)

    def environment(self) -> Mapping[str, str]:
        """See :class:`Host`."""
        return self.answer("host", "environment", [], dict[str, str])

    def platform(self) -> PlatformFacts:
        """See :class:`Host`."""
        return self.answer("host", "platform", [], PlatformFacts)

    def open_nvml(self) -> Nvml:
        """NVML as it was recorded, or the error that its opening was."""
        self.answer("nvml", "open", [], type(None))
        return ReplayNvml(self)


_DOOR_OF_ERROR: Final = {"host": "file"}


class ReplayNvml:
    """NVML of a recording."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def kernel_mode_version(self) -> str:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "kernel_mode_version", [], str)

    def devices(self) -> tuple[NvmlDevice, ...]:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "devices", [], tuple[NvmlDevice, ...])

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "processes", [uuid], tuple[ProcessMemory, ...])

    def memory_used(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "memory_used", [uuid], int)

    def utilization(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "utilization", [uuid], int)

    def power_mw(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "power_mw", [uuid], int)

    def energy_mj(self, uuid: str) -> int:
        """See :class:`Nvml`."""
        return self._replay.answer("nvml", "energy_mj", [uuid], int)

    def close(self) -> None:
        """See :class:`Nvml`."""
        self._replay.answer("nvml", "close", [], type(None))


class ReplayProcesses:
    """Processes of a recording: nothing is started; the callbacks get what the child said then."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,  # noqa: ARG002 - the door's shape
        env: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
        cwd: Path | None = None,  # noqa: ARG002 - as above
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        """See :class:`Processes`; limit, environment and folder are those of the recording."""
        run = self._replay.answer("process", "run", command(argv), RecordedRun)
        stdout = run.stdout.encode("utf-8", "surrogateescape")
        stderr = run.stderr.encode("utf-8", "surrogateescape")
        if on_start is not None:
            on_start(run.pid)
        if on_output is not None:
            for chunk in filter(None, (stdout, stderr)):
                on_output(chunk)
        return Completed(
            argv=tuple(argv),
            status=run.status,
            stdout=stdout,
            stderr=stderr,
            seconds=run.seconds,
            timed_out=run.timed_out,
        )
