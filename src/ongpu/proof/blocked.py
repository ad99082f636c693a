"""The ``blocked`` part of a bundle: where it stopped, the cause its log names, and what was not tried, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ongpu import diagnose
from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError
from ongpu.proof.bundle import LOG_FILE, REHEARSED, Bundle

PHASES: Final = ("probe", "plan", "install", "scan", "smoke", "train", "compare")
BLOCKED_PAGE: Final = "blocked.txt"
RUN_PHASE: Final = "run"
# What is shown of a log that names no known cause.
_TAIL_LINES, _TAIL_BYTES, _LINE_WIDTH = 5, 1 << 16, 300
_CHUNK_BYTES: Final = 1 << 20


def failure_of_log(log: Path, message: str) -> BlockedError:
    """The cause that a failed command's log names, its lines, and what to do now."""
    found = diagnose.diagnose(_chunks(log))
    if found.cause in (Cause.HEALTHY, Cause.UNDETERMINED):
        words = [line.strip() for line in _tail(log).splitlines() if line.strip()]
        return BlockedError(
            message,
            next_step=f"Its log names no known cause: read {log} and mend the command, then run it again.",
            cause=Cause.UNDETERMINED.value,
            lines=tuple(line[:_LINE_WIDTH] for line in words[-_TAIL_LINES:] if line != REHEARSED),
        )
    lines = tuple(f"{LOG_FILE}:{finding.line}: {finding.text}" for finding in found.findings)
    return BlockedError(message, next_step=found.next_step, cause=found.cause.value, lines=lines)


def record_block(bundle: Bundle, error: BlockedError, *, phase: str, done: Sequence[str] = ()) -> None:
    """Write the ``blocked`` record and ``blocked.txt``. ``done`` are the phases that were finished before."""
    left_undone = list(not_tried(phase, reached=(*done, phase)))
    body = {
        "phase": phase,
        # No cause is named by a log that tells none: the witnesses of a run may still know one.
        "cause": None if phase == RUN_PHASE and error.cause == Cause.UNDETERMINED.value else error.cause,
        "reason": error.message,
        "lines": list(error.lines),
        "next_step": error.next_step,
        "done": list(done),
        "not_tried": left_undone,
    }
    bundle.record("blocked", body)
    page = [f"Blocked in phase: {phase}", f"Cause: {error.cause}", f"Reason: {error.message}"]
    page += [f"  | {line}" for line in error.lines]
    page += [f"Next: {error.next_step}", "Not tried, and why:", *(f"  - {one}" for one in left_undone)]
    page += ["Nothing was retried, downgraded or moved to the CPU."]
    bundle.text(BLOCKED_PAGE, "\n".join(page) + "\n")


def not_tried(phase: str, *, reached: Iterable[str]) -> Iterator[str]:
    """What was left undone after a block, each with the reason."""
    if phase != RUN_PHASE:
        missing = [name for name in PHASES if name not in set(reached)]
        if missing:
            yield f"{', '.join(missing)}: not reached, since each needs what `{phase}` would have given."
        yield "Another PyTorch build, driver or Python: not installed, since ongpu changes no version unasked."
    yield "A second attempt: not made, since a retry would hide what failed."
    yield "The CPU, or another GPU: not used in its place, since that would prove nothing of this one."


def _chunks(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as stream:
            while part := stream.read(_CHUNK_BYTES):
                yield part


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
        return stream.read().decode("utf-8", "replace")
