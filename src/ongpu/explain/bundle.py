"""A bundle as a case: where it stopped and why, what was read of the machine, its logs, what was not tried.

What the run itself recorded (its ``blocked`` record, its verdict) comes before what its log looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ongpu.diagnose import Diagnosis, Finding, Sure
from ongpu.domain.verdict import Cause, Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import UsageError
from ongpu.evidence.chain import JournalError, scan_journal
from ongpu.evidence.recompute import recompute
from ongpu.evidence.statement import JOURNAL_NAME
from ongpu.explain.log import Explanation, explain
from ongpu.proof.blocked import BLOCKED_PAGE

# The logs of a bundle, the one that was written last first.
LOGS: Final = ("training_log.txt", "torch_cuda_check.txt", "install_log.txt", BLOCKED_PAGE)
_MAX_JOURNAL_BYTES: Final = 64 << 20
_TAIL_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 20
_NO_LOG: Final = "(none)"
_ENVIRONMENT_PAGE: Final = "env_info.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Where ``enable`` stopped, as it recorded it."""

    phase: str
    cause: str
    reason: str
    lines: tuple[str, ...]
    next_step: str
    done: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """One text file of a bundle: its size and its last lines."""

    name: str
    size_bytes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleCase:
    """A bundle read for a report.

    ``told`` is its diagnosis with the planner's word on it; ``log`` the file that the lines of the diagnosis are
    in; ``not_tried`` what was left undone, each with the reason. ``observations`` is the journal as far as it is
    whole, ``verdict`` what it gives (``None`` where it cannot be judged).
    """

    folder: str
    log: str
    told: Explanation
    block: Block | None
    verdict: Verdict | None
    end: str | None
    not_tried: tuple[str, ...]
    observations: tuple[Observation, ...]
    logs: tuple[LogTail, ...]
    environment: str | None

    def first(self, kind: str) -> Mapping[str, Any]:
        """The data of the first record of a kind; empty where there is none."""
        return _first(self.observations, kind)


def read_case(folder: Path) -> BundleCase:
    """Read the bundle in ``folder``, sealed or not. Raises :class:`UsageError` where it is none, or unreadable."""
    observations = _journal(folder)
    present = [name for name in LOGS if (folder / name).is_file() and not (folder / name).is_symlink()]
    log = next(iter(present), None)
    try:
        told = explain(_chunks(folder / log) if log else b"")
        logs = tuple(_tail(folder / name) for name in present if name != BLOCKED_PAGE)
        page = _tail(folder / BLOCKED_PAGE).text if BLOCKED_PAGE in present else ""
        environment = _tail(folder / _ENVIRONMENT_PAGE).text if (folder / _ENVIRONMENT_PAGE).is_file() else None
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be read: {error.strerror}.", next_step="Name a bundle you may read."
        ) from error
    block = _block(_first(observations, "blocked"))
    verdict = _verdict(observations)
    unnamed = block is None or block.cause == Cause.UNDETERMINED.value
    if unnamed and verdict is not None and verdict.cause not in {None, told.diagnosis.cause}:
        told = replace(told, diagnosis=_judged(told.diagnosis, verdict))
    elif block is not None and (told.diagnosis.cause.value != block.cause or log in {None, BLOCKED_PAGE}):
        told, log = replace(told, diagnosis=_recorded(told.diagnosis, block, page)), BLOCKED_PAGE
    elif block is not None:
        told = replace(told, diagnosis=replace(told.diagnosis, next_step=block.next_step))
    return BundleCase(
        folder=folder.name,
        log=log or _NO_LOG,
        told=told,
        block=block,
        verdict=verdict,
        end=_text(_first(observations, "run.end").get("end")),
        not_tried=_texts(_first(observations, "blocked").get("not_tried")),
        observations=observations,
        logs=logs,
        environment=environment,
    )


def _journal(folder: Path) -> tuple[Observation, ...]:
    path = folder / JOURNAL_NAME
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_JOURNAL_BYTES and path.is_file() else None
    except OSError as error:
        raise UsageError(
            f"{folder} is no bundle: its {JOURNAL_NAME} cannot be read ({error.strerror}).",
            next_step="Name a bundle's folder, such as ongpu_runs/enable, or a log file.",
        ) from error
    if data is None:
        raise UsageError(
            f"{path} is no file, or larger than {_MAX_JOURNAL_BYTES >> 20} MiB.", next_step="Name a log file instead."
        )
    try:
        return scan_journal(data).observations
    except JournalError as error:
        raise UsageError(
            f"{folder} was changed, or is no bundle of ongpu: {error}.",
            next_step=f"See what is wrong with it: ongpu evidence check {folder}",
        ) from error


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while part := stream.read(_CHUNK_BYTES):
            yield part


def _tail(path: Path) -> LogTail:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        text = stream.read().decode("utf-8", "replace")
    if size > _TAIL_BYTES:
        text = text.partition("\n")[2]
    return LogTail(name=path.name, size_bytes=size, text=text)


def _first(observations: Sequence[Observation], kind: str) -> Mapping[str, Any]:
    return next((one.data for one in observations if one.kind == kind), {})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _block(data: Mapping[str, Any]) -> Block | None:
    if not data:
        return None
    return Block(
        phase=_text(data.get("phase")) or "unknown",
        cause=_text(data.get("cause")) or Cause.UNDETERMINED.value,
        reason=_text(data.get("reason")) or "No reason was recorded.",
        lines=_texts(data.get("lines")),
        next_step=_text(data.get("next_step")) or "Run `ongpu doctor` on that machine.",
        done=_texts(data.get("done")),
    )


def _verdict(observations: Sequence[Observation]) -> Verdict | None:
    try:
        return recompute(observations)
    except ValueError:  # the judge's own error: not every interrupted run can be judged
        return None


def _recorded(found: Diagnosis, block: Block, page: str) -> Diagnosis:
    """The diagnosis of a block that the log alone does not show: what the run recorded, from facts it read itself."""
    try:
        cause = Cause(block.cause)
    except ValueError:
        cause = Cause.UNDETERMINED
    numbered = list(enumerate(page.splitlines(), start=1))
    findings = tuple(
        Finding(line=next((number for number, text in numbered if line in text), 1), rule="recorded", text=line)
        for line in block.lines
    )
    return replace(
        found,
        cause=cause,
        sure=Sure.UNDETERMINED if cause is Cause.UNDETERMINED else Sure.INFERRED,
        reason=f"recorded in phase {block.phase}: {block.reason}",
        findings=findings,
        rejected=tuple(one for one in found.rejected if one.cause is not cause),
        next_step=block.next_step,
        question="What does `ongpu doctor` say on that machine?",
    )


def _judged(found: Diagnosis, verdict: Verdict) -> Diagnosis:
    if verdict.cause is None:
        return found
    return replace(
        found,
        cause=verdict.cause,
        sure=Sure.INFERRED,
        reason=f"the witnesses of the run say so, whatever its log shows: {verdict.reason}",
        findings=(),
        rejected=tuple(one for one in found.rejected if one.cause is not verdict.cause),
        next_step="See what was observed: ongpu evidence show BUNDLE",
        question="Which claims are refuted? `ongpu evidence show BUNDLE` lists them.",
    )
