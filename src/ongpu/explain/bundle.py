"""A bundle as a case: where it stopped and why, what was read of the machine, its logs, what was not tried.

What the run itself recorded (its ``blocked`` record, its verdict) comes before what its log looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ongpu.explain.stored import FolderFiles, LogTail, ZipFiles
from ongpu.proof.blocked import BLOCKED_PAGE

# The logs of a bundle, the one that was written last first.
LOGS: Final = ("training_log.txt", "torch_cuda_check.txt", "install_log.txt", BLOCKED_PAGE)
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


def read_case(bundle: Path) -> BundleCase:
    """Read a bundle: a folder, sealed or not, or a zip file. Raises :class:`UsageError` where it cannot be read."""
    files = FolderFiles(bundle) if bundle.is_dir() else ZipFiles(bundle, names=(*LOGS, _ENVIRONMENT_PAGE))
    observations = _journal(bundle, files)
    present = [name for name in LOGS if files.has(name)]
    log = next(iter(present), None)
    try:
        told = explain(files.chunks(log) if log else b"")
        logs = tuple(files.tail(name) for name in present if name != BLOCKED_PAGE)
        page = files.tail(BLOCKED_PAGE).text if BLOCKED_PAGE in present else ""
        environment = files.tail(_ENVIRONMENT_PAGE).text if files.has(_ENVIRONMENT_PAGE) else None
    except OSError as error:
        raise UsageError(
            f"{error.filename or bundle} cannot be read: {error.strerror}.", next_step="Name a bundle you may read."
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
        folder=bundle.name,
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


def _journal(bundle: Path, files: FolderFiles | ZipFiles) -> tuple[Observation, ...]:
    try:
        data = files.journal()
    except OSError as error:
        raise UsageError(
            f"{bundle} is no bundle: its {JOURNAL_NAME} cannot be read ({error.strerror}).",
            next_step="Name a bundle's folder, such as ongpu_runs/enable, or a log file.",
        ) from error
    try:
        return scan_journal(data).observations
    except JournalError as error:
        raise UsageError(
            f"{bundle} was changed, or is no bundle of ongpu: {error}.",
            next_step=f"See what is wrong with it: ongpu evidence check {bundle}",
        ) from error


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
