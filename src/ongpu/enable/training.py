"""The training under guard, the same steps on the CPU, and what a failure of either means."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ongpu.domain.verdict import Cause
from ongpu.enable.command import COMPARED_STEPS, TrainCommand
from ongpu.enable.phases import Context
from ongpu.enable.request import PhaseOutcome, Watch
from ongpu.enable.road import Step
from ongpu.errors import BlockedError, WorkError
from ongpu.guard.session import GuardResult, GuardSettings
from ongpu.proof.blocked import failure_of_log
from ongpu.proof.bundle import LOG_FILE

# The first steps load libraries and choose algorithms: they are left out of a median.
_WARM_UP_STEPS = 3
# The end of a log of the reference training that stopped with an error of its own.
_OWN_ERROR = re.compile(r"^error(?: \[(?P<cause>[a-z-]+)\])?: .+\n(?:  \| .*\n)*next: (?P<next>.+)$\s*\Z", re.MULTILINE)
_TAIL_BYTES = 1 << 16


class _Passing:
    """A console that hands what a child prints to whoever watches."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def write(self, data: bytes) -> int:
        """Hand the bytes on."""
        self._watch.output(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """The child's output goes into a view of ours, not to a terminal."""
        return False


def train_phase(
    context: Context, command: TrainCommand, variables: Mapping[str, str], watch: Watch
) -> Step[GuardResult]:
    """The command under guard. A command that fails, or was stopped, ends the road with the cause its log names."""
    bundle = context.bundle
    settings = GuardSettings(
        role="train",
        environment=variables,
        cwd=context.doors.cwd,
        log_path=bundle.folder / LOG_FILE,
        trace_steps=context.request.trace_steps,
    )
    result = bundle.guarded(command.argv, settings=settings, console=_Passing(watch))  # type: ignore[arg-type]
    if result.interrupted:
        raise KeyboardInterrupt
    steps = _metrics(context, command.output, role="train") if command.output is not None else None
    if result.status != 0 or result.stopped is not None:
        how = result.stopped_reason or f"the training ended with {result.signal or f'exit status {result.status}'}"
        raise _failed(bundle.folder / LOG_FILE, how, ours=command.ours)
    if steps == 0:
        raise _failed(bundle.folder / LOG_FILE, "exit status 0, but it wrote down no training step", ours=command.ours)
    outcome = PhaseOutcome.REHEARSED if context.rehearsed else PhaseOutcome.DONE
    summary = f"exit status 0 after {result.seconds:.1f} s" + (f", {steps} steps" if steps else "")
    if result.log_error is not None:
        return Step(value=result, summary=f"{summary}; its log is cut: {result.log_error}", outcome=PhaseOutcome.NOTED)
    return Step(value=result, summary=summary, outcome=outcome)


def _failed(log: Path, how: str, *, ours: bool) -> BlockedError:
    message = f"The training did not complete: {how}."
    found = failure_of_log(log, message)
    tail = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace") if ours and log.exists() else ""
    said = _OWN_ERROR.search(tail)
    if said is None:
        return found
    # the reference training names what is wrong and what to do
    cause = Cause(said["cause"]) if said["cause"] in set(Cause) else Cause.UNDETERMINED
    lines = tuple(said[0].strip().splitlines()[:-1])
    return BlockedError(message, next_step=said["next"], cause=cause.value, lines=lines)


def compare_phase(context: Context, command: TrainCommand, variables: Mapping[str, str], watch: Watch) -> Step[None]:
    """A few of the same steps on the CPU. What fails here leaves a claim unknown; it does not end the road."""
    if context.rehearsed or not command.ours:
        why = (
            "the rehearsal trained on the CPU itself"
            if context.rehearsed
            else "the options of this command are not known"
        )
        return Step(value=None, summary=f"not measured: {why}", outcome=PhaseOutcome.SKIPPED)
    with _scratch() as output:
        return _compare(context, command, variables, watch, output=output)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that the comparison makes, gone afterwards: its model is nobody's."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="ongpu-compare-")
    except OSError as error:
        raise WorkError(
            f"No temporary folder can be made for the comparison: {error.strerror or error}.",
            next_step="Make room in it, or name another one in the variable TMPDIR.",
        ) from error
    with folder as path:
        yield Path(path) / "cpu"


def _compare(
    context: Context, command: TrainCommand, variables: Mapping[str, str], watch: Watch, *, output: Path
) -> Step[None]:
    argv = command.on_cpu(steps=COMPARED_STEPS, output=output)
    log = context.bundle.folder / "cpu_comparison_log.txt"
    settings = GuardSettings(role="cpu-comparison", environment=variables, cwd=context.doors.cwd, log_path=log)
    result = context.bundle.guarded(argv, settings=settings, console=_Passing(watch))  # type: ignore[arg-type]
    if result.interrupted:
        raise KeyboardInterrupt
    _metrics(context, output, role="cpu-comparison")
    if result.status != 0:
        summary = f"not measured: the CPU run ended with status {result.status}"
        return Step(value=None, summary=summary, outcome=PhaseOutcome.NOTED)
    return Step(value=None, summary=f"{COMPARED_STEPS} of the same steps on the CPU in {result.seconds:.1f} s")


def _metrics(context: Context, output: Path, *, role: str) -> int:
    """What the training wrote of itself, copied and summed up: claimed by it, measured by nobody else.

    Returns how many steps it wrote down.
    """
    path = context.doors.cwd / output / "metrics.jsonl"
    try:
        text = path.read_text("utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line]
    except (OSError, ValueError) as error:
        context.bundle.record("metrics", {"role": role, "steps": None, "reason": f"metrics.jsonl: {error}"})
        return 0
    steps = [row for row in rows if "loss" in row]
    later = steps[_WARM_UP_STEPS:] or steps
    if not steps:
        return 0
    try:
        summary = {
            "role": role,
            "steps": len(steps),
            "warm_up_steps": len(steps) - len(later),
            "tokens_per_s_median": statistics.median(row["tokens_per_s"] for row in later),
            "step_seconds_median": statistics.median(row["seconds"] for row in later),
            "loss_first": steps[0]["loss"],
            "loss_last": steps[-1]["loss"],
        }
    except (KeyError, TypeError) as error:
        raise WorkError(
            f"metrics.jsonl of the training has another shape: {error!r}.",
            next_step="Report this as a defect of ongpu, with that file.",
        ) from error
    context.bundle.record("metrics", summary)
    if not context.rehearsed:
        context.bundle.text("metrics.jsonl" if role == "train" else "cpu_comparison_metrics.jsonl", text)
    return len(steps)
