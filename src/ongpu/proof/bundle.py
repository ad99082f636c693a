"""One bundle from its first line to its seal, and one command proven in it.

A bundle is opened before anything is observed (its first record is the start commitment), filled by the rooms
through :meth:`Bundle.record` and :meth:`Bundle.text`, and closed once: files listed, verdict computed from the
journal as it stands on the disk, README made from the same lines, manifest written last.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ongpu.domain.plain import plain
from ongpu.domain.verdict import Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import InterruptedRunError, OngpuError, WorkError
from ongpu.evidence.dsse import Signer
from ongpu.evidence.journal import JOURNAL_NAME, Journal
from ongpu.evidence.recompute import recompute
from ongpu.evidence.redact import Redactor, redact_file
from ongpu.evidence.seal import new_start, seal
from ongpu.evidence.statement import MANIFEST_NAME
from ongpu.guard.session import GuardResult, GuardSettings, run_guarded
from ongpu.proof.blocked_folder import BLOCKED_REPORT, blocked_documents, is_blocked
from ongpu.proof.doors import Doors
from ongpu.proof.snapshot import Snapshot

REHEARSED = (
    "REHEARSED: this was walked through for a described machine and trained on the CPU. "
    "Nothing here was observed on a GPU, and nothing is proven."
)
LOG_FILE = "training_log.txt"


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


class Bundle:
    """One folder of evidence. Not reusable: opened once, closed once."""

    def __init__(
        self, *, journal: Journal, redactor: Redactor, doors: Doors, start: Start, signer: Signer | None = None
    ) -> None:
        self.folder = journal.folder
        self.start = start
        self._journal = journal
        self._redactor = redactor
        self._doors = doors
        self._signer = signer

    @classmethod
    def open(
        cls, folder: Path, *, start: Start, doors: Doors, redactor: Redactor, signer: Signer | None = None
    ) -> Bundle:
        """Make the folder and write the start commitment, synced to the disk. ``signer`` signs what is sealed.

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
        return cls(journal=journal, redactor=redactor, doors=doors, start=start, signer=signer)

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
        snapshot = Snapshot(doors=self._doors, text=self.text, record=self.record)
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
            with self._doors.interrupts.held():  # what was printed is searched whole, or not kept
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
        except BaseException:  # also who insists on an end
            with contextlib.suppress(OSError):
                log.unlink()
            raise

    def files(self) -> list[str]:
        """Every file of the bundle so far, the journal left out, by its name in the bundle."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != JOURNAL_NAME)
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def close(self, *, end: str) -> Sealed:
        """Write ``env_info.txt``, list the files, judge what the journal holds, write the README, seal.

        :param end: ``completed``, ``failed``, ``blocked`` or ``interrupted``.
        :raises WorkError: the disk could not take it. The folder is not sealed then, and can be recovered.
        :raises InterruptedRunError: the user insisted on an end; whether it was sealed by then, its next step tells.
        """
        self._journal.give_back_reserve()
        try:
            return self._close(end=end)
        except KeyboardInterrupt:
            with contextlib.suppress(WorkError):
                self._journal.close()
            sealed = (self.folder / MANIFEST_NAME).exists()
            raise InterruptedRunError(
                f"Interrupted while the evidence was sealed{'' if sealed else ', before it was'}.",
                next_step=f"It is complete: ongpu evidence check {self.folder}"
                if sealed
                else f"Nothing was left running; seal what is there: ongpu evidence recover {self.folder}",
            ) from None
        except (OSError, WorkError) as error:
            with contextlib.suppress(WorkError):
                self._journal.close()
            reason = error.message if isinstance(error, WorkError) else f"{error.strerror or error}."
            raise WorkError(
                f"The evidence could not be sealed: {reason}",
                next_step=f"Free space on that disk, then seal what is there: ongpu evidence recover {self.folder}",
            ) from error

    def _close(self, *, end: str) -> Sealed:
        pages = self._doors.pages
        observations = self.observations()
        self.text("env_info.txt", pages.env_info(observations))
        blocked = is_blocked(observations)
        for name, text in blocked_documents(observations, self.files()) if blocked else ():
            self.text(name, text)
        names = self.files()
        self.record("files", {"files": [self._digest(name) for name in names]})
        self.record("run.end", {"end": end, "observations": self._journal.length})
        observations = self.observations()
        verdict = recompute(observations)
        self.text("verdict.json", pages.verdict(observations, verdict))
        names += ["README.md", JOURNAL_NAME, "verdict.json"]
        if blocked:
            self.text(BLOCKED_REPORT, pages.issue(self.folder))
            names.append(BLOCKED_REPORT)
        self.text("README.md", pages.readme(observations, verdict, names))
        seal(self.folder, self._journal, verdict=verdict, signer=self._signer)
        return Sealed(folder=self.folder, verdict=verdict)

    def _digest(self, name: str) -> dict[str, object]:
        data = (self.folder / name).read_bytes()
        return {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
