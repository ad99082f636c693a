"""Joins the guard and the evidence: one bundle from its first line to its seal, and one command proven in it.

A bundle is opened before anything is observed (its first record is the start commitment), filled by the rooms
through :meth:`Bundle.record` and :meth:`Bundle.text`, and closed once: files listed, verdict computed from the
journal as it stands on the disk, README made from the same lines, manifest written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from ongpu.domain.plain import plain
from ongpu.domain.verdict import Cause, Outcome, Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import DoorError, OngpuError, UsageError, WorkError
from ongpu.evidence.journal import JOURNAL_NAME, Journal
from ongpu.evidence.recompute import recompute
from ongpu.evidence.redact import Identity, Redactor, redact_file
from ongpu.evidence.seal import new_start, seal
from ongpu.guard.session import GuardEvent, GuardResult, GuardSettings, run_guarded
from ongpu.machine.clock import Clock
from ongpu.machine.host import Host
from ongpu.machine.interrupts import Interrupts
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Processes
from ongpu.machine.smi import nvidia_smi_text, read_nvml, render

REHEARSED = (
    "REHEARSED: this was walked through for a described machine and trained on the CPU. "
    "Nothing here was observed on a GPU, and nothing is proven."
)
EXIT_STATUS: Mapping[Outcome, int] = {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}
SMI_FILE = "nvidia_smi.txt"
LOG_FILE = "training_log.txt"


class Pages(Protocol):
    """The pages of a bundle, made from observations alone (floor 5 writes them)."""

    def env_info(self, observations: Sequence[Observation]) -> str:
        """``env_info.txt``."""
        ...

    def verdict(self, observations: Sequence[Observation], verdict: Verdict) -> str:
        """``verdict.json``."""
        ...

    def readme(self, observations: Sequence[Observation], verdict: Verdict, files: Sequence[str]) -> str:
        """``README.md``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """The outside, as the joining rooms are handed it."""

    nvml: Callable[[], Nvml]
    processes: Processes
    host: Host
    clock: Clock
    cwd: Path
    pages: Pages
    interrupts: Interrupts = field(default_factory=Interrupts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a bundle commits to before anything runs."""

    profile: str
    argv: tuple[str, ...]
    expect_gpu: str | None
    simulated: bool
    compare_cpu: bool
    tool_version: str
    nonce: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A closed bundle."""

    folder: Path
    verdict: Verdict


def check_command(command: Sequence[str], *, path: str | None, example: str) -> None:
    """Refuse a command that cannot be started, before anything is made for it.

    :param path: the ``PATH`` it is to be looked up on.
    :param example: how such a command is typed, for the next step.
    :raises UsageError: there is none of that name, or the name is of a file that cannot be run.
    """
    name = command[0] if command else ""
    if not name.strip():
        raise UsageError("There is no command to run.", next_step=f"Type it after --: {example}")
    if shutil.which(name, path=path) is not None:
        return
    found = Path(name)
    if found.is_dir():
        reason, step = "is a folder", "Name the program in it that trains."
    elif found.is_file() and ("/" in name or "\\" in name):
        reason, step = "may not be executed", f"Make it executable (chmod +x {name}), or name its interpreter first."
    else:
        reason, step = "is no command that can be started here", f"Check its spelling, or give its path: {example}"
    raise UsageError(f"{name!r} {reason}.", next_step=step)


def next_after(verdict: Verdict, bundle: Path | str) -> str:
    """What to type after a verdict that nothing blocked."""
    if verdict.simulated:
        return "Run `ongpu enable` on the machine with the GPU; a rehearsal proves nothing."
    match verdict.outcome:
        case Outcome.PROVEN:
            return f"Give the bundle to whoever must believe it; they type: ongpu evidence check {bundle}"
        case Outcome.REFUTED if verdict.cause is Cause.SILENT_CPU:
            return (
                "It trained on the CPU: `ongpu doctor` says whether its environment can use this machine's GPU; "
                "where it can, the program has to move its model and data there."
            )
        case Outcome.REFUTED:
            return "Read the refuted claims above: each names what was seen instead."
        case Outcome.UNKNOWN:
            return "Read the unknown claims above: each names what could not be observed, and why."


def redactor_for(doors: Doors, *, pseudonymous: bool) -> Redactor:
    """The redactor of a run: secrets always, identities on request."""
    environment = doors.host.environment()
    identity = _identity(doors, environment) if pseudonymous else None
    return Redactor(environment, identity=identity, is_path=doors.host.exists)


def _identity(doors: Doors, environment: Mapping[str, str]) -> Identity:
    uuids: list[str] = []
    try:
        nvml = doors.nvml()
        try:
            uuids = [device.uuid for device in nvml.devices()]
        finally:
            nvml.close()
    except DoorError:
        uuids = []  # no NVML, no UUIDs to replace: the probe records why it cannot be read
    try:
        host: tuple[str, ...] = (doors.host.read_text("/proc/sys/kernel/hostname").strip(),)
    except DoorError:
        host = tuple(filter(None, (environment.get("HOSTNAME"), environment.get("COMPUTERNAME"))))
    return Identity(
        hosts=host,
        user=environment.get("USER") or environment.get("USERNAME"),
        home=environment.get("HOME") or environment.get("USERPROFILE"),
        cwd=str(doors.cwd),
        temp=environment.get("TMPDIR") or environment.get("TEMP"),
        uuids=tuple(form for uuid in uuids for form in (uuid, uuid.removeprefix("GPU-"))),
        salt=secrets.token_hex(16),
    )


class Bundle:
    """One folder of evidence. Not reusable: opened once, closed once."""

    def __init__(self, *, journal: Journal, redactor: Redactor, doors: Doors, start: Start) -> None:
        self.folder = journal.folder
        self.start = start
        self._journal = journal
        self._redactor = redactor
        self._doors = doors

    @classmethod
    def open(cls, folder: Path, *, start: Start, doors: Doors, redactor: Redactor) -> Bundle:
        """Make the folder and write the start commitment, synced to the disk.

        Raises :class:`~ongpu.errors.UsageError` where the folder is taken or cannot be written.
        """
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        data = new_start(
            profile=start.profile,
            simulated=start.simulated,
            tool_version=start.tool_version,
            boot_id=doors.clock.boot_id(),
            nonce=start.nonce,
            more={"argv": list(start.argv), "expect_gpu": start.expect_gpu, "compare_cpu": start.compare_cpu},
        )
        try:
            journal = Journal.create(folder, clock=doors.clock, redact=redactor)
            try:
                journal.record("run.start", data)
            except WorkError:
                with contextlib.suppress(OSError, WorkError):
                    journal.close()
                    (folder / JOURNAL_NAME).unlink()
                raise
        except OngpuError:
            for one in made:  # nothing was observed: nothing is left of it
                with contextlib.suppress(OSError):
                    one.rmdir()
            raise
        return cls(journal=journal, redactor=redactor, doors=doors, start=start)

    def record(self, kind: str, data: Mapping[str, object]) -> int:
        """Append one observation; returns its ``seq``. An interrupt waits until the whole line is written."""
        with self._doors.interrupts.held():
            return self._journal.record(kind, data)

    def value(self, kind: str, value: object) -> int:
        """Append a value of ours as one observation."""
        fields = plain(value)
        if not isinstance(fields, dict):
            raise TypeError(f"{type(value).__name__} is no record")
        return self.record(kind, fields)

    def observations(self) -> tuple[Observation, ...]:
        """The journal as it stands on the disk."""
        return self._journal.observations()

    def text(self, name: str, content: str) -> None:
        """Write one text file of the bundle, redacted, and marked on its first line where it is rehearsed.

        JSON has no place for a line of text: a rehearsal is marked in its ``simulated`` field.
        """
        path = self.folder / name
        mark = self.start.simulated and path.suffix not in {".json", ".jsonl"}
        marked = f"{REHEARSED}\n\n{content}" if mark else content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._redactor(marked).encode("utf-8", "replace"))
        except OSError as error:
            raise WorkError(
                f"{path} could not be written: {error.strerror}.",
                next_step="Free space on that disk or name another folder with --evidence, then run it again.",
            ) from error

    def guarded(
        self,
        command: Sequence[str],
        *,
        settings: GuardSettings,
        console: BinaryIO | None = None,
        console_err: BinaryIO | None = None,
    ) -> GuardResult:
        """Run a command under guard, its readings into the journal and its output into the bundle.

        ``nvidia_smi.txt`` is taken at the first optimizer step on CUDA, while the training goes on; a run that
        never gets there leaves none.
        """
        snapshot = _Snapshot(self, self._doors)
        try:
            result = run_guarded(
                command,
                settings=settings,
                recorder=self,
                console=console,
                console_err=console_err,
                on_event=snapshot.on_event,
            )
        finally:
            snapshot.join()
            if settings.log_path is not None and settings.log_path.exists():
                self._clean(settings.log_path)
        snapshot.raise_failure()
        return result

    def _clean(self, log: Path) -> None:
        """Redact a log and mark a rehearsed one, whole or not at all. What cannot be redacted is not kept."""
        mark = f"{REHEARSED}\n\n" if self.start.simulated else ""

        def cleaned(text: str) -> str:
            return mark + self._redactor(text)

        try:
            try:
                redact_file(log, cleaned)
            except WorkError:
                self._journal.give_back_reserve()
                redact_file(log, cleaned)
        except WorkError:
            with contextlib.suppress(OSError):
                log.unlink()
            raise

    def files(self) -> list[str]:
        """Every file of the bundle so far, the journal left out, by its name in the bundle."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != JOURNAL_NAME)
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def close(self, *, end: str) -> Sealed:
        """List the files, judge what the journal holds, write the README, seal.

        :param end: ``completed``, ``failed``, ``blocked`` or ``interrupted``.
        :raises WorkError: the disk could not take it. The folder is not sealed then, and can be recovered.
        """
        self._journal.give_back_reserve()
        try:
            return self._close(end=end)
        except (OSError, WorkError) as error:
            with contextlib.suppress(WorkError):
                self._journal.close()
            reason = error.message if isinstance(error, WorkError) else f"{error.strerror or error}."
            raise WorkError(
                f"The evidence could not be sealed: {reason}",
                next_step=f"Free space on that disk, then seal what is there: ongpu evidence recover {self.folder}",
            ) from error

    def _close(self, *, end: str) -> Sealed:
        names = self.files()
        self.record("files", {"files": [self._digest(name) for name in names]})
        self.record("run.end", {"end": end})
        observations = self.observations()
        verdict = recompute(observations)
        pages = self._doors.pages
        self.text("verdict.json", pages.verdict(observations, verdict))
        names += ["README.md", JOURNAL_NAME, "verdict.json"]
        self.text("README.md", pages.readme(observations, verdict, names))
        seal(self.folder, self._journal, verdict=verdict)
        return Sealed(folder=self.folder, verdict=verdict)

    def _digest(self, name: str) -> dict[str, object]:
        data = (self.folder / name).read_bytes()
        return {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


class _Snapshot:
    """``nvidia-smi`` and NVML while the training runs, taken beside the session so that no reading waits for it."""

    def __init__(self, bundle: Bundle, doors: Doors) -> None:
        self._bundle = bundle
        self._doors = doors
        self._thread: threading.Thread | None = None
        self._failure: OngpuError | None = None

    def on_event(self, event: GuardEvent) -> None:
        """Start taking it at the first step on CUDA."""
        if event.kind == "first-step-on-cuda" and self._thread is None:
            self._thread = threading.Thread(target=self._take, args=(event,), name="nvidia-smi")
            self._thread.start()

    def join(self) -> None:
        """Wait until it is written."""
        if self._thread is not None:
            self._thread.join()

    def raise_failure(self) -> None:
        """Raise what kept it from being written, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _take(self, event: GuardEvent) -> None:
        try:
            self._write(event)
        except OngpuError as error:
            self._failure = error

    def _write(self, event: GuardEvent) -> None:
        clock = self._doors.clock
        began_s = clock.mono_s()
        parts = []
        try:
            nvml = self._doors.nvml()
            try:
                parts.append(render(read_nvml(nvml), taken=f"while process {event.pid} was training"))
            finally:
                nvml.close()
        except DoorError as error:
            parts.append(f"# NVML could not be read: {error}\n")
        listed_s = clock.mono_s()
        try:
            text = nvidia_smi_text(self._doors.processes, environment=self._doors.host.environment())
            parts.append("# nvidia-smi, as it printed\n" + text)
        except DoorError as error:
            parts.append(f"# nvidia-smi could not be run: {error}\n")
        head = (
            f"# Taken while process {event.pid} was training, after its first optimizer step on CUDA "
            f"(journal record {event.seq}).\n# Monotonic clock: begun {began_s:.3f} s, NVML read {listed_s:.3f} s, "
            f"nvidia-smi read {clock.mono_s():.3f} s.\n\n"
        )
        self._bundle.text(SMI_FILE, head + "\n".join(parts))
        self._bundle.record(
            "text",
            {"name": SMI_FILE, "while": event.seq, "pid": event.pid, "began_s": began_s, "ended_s": clock.mono_s()},
        )
