"""What is said before a command is started and after a verdict: the refusal, the exit status, the next step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ongpu.domain.verdict import Cause, Outcome, Verdict
from ongpu.errors import UsageError
from ongpu.evidence.challenge import seed, seeds_in

EXIT_STATUS: Mapping[Outcome, int] = {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}


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


def check_expected_gpu(name: str | None) -> None:
    """Refuse an expectation that names nothing. :raises UsageError: it is empty."""
    if name is not None and not name.strip():
        raise UsageError("--expect-gpu is empty.", next_step="Name a GPU model, for example --expect-gpu 'RTX 5090'.")


def check_seeded(command: Sequence[str], nonce: str | None) -> None:
    """Refuse a command that cannot answer the nonce: its checker asks for the seed that follows from it.

    :raises UsageError: ``--seed`` with that value is not on the command line.
    """
    if nonce is not None and seeds_in(command) != {str(seed(nonce))}:
        raise UsageError(
            "The command does not take up the nonce: its training must start from the seed that follows from it.",
            next_step=f"Add --seed {seed(nonce)} to the command, after --.",
        )


def check_trace_steps(steps: int | None) -> None:
    """Refuse a kernel trace of too few steps to say anything, or of more than is needed.

    :raises UsageError: it is not 2 to 5.
    """
    if steps is not None and not 2 <= steps <= 5:
        raise UsageError(f"A trace of {steps} steps is not made.", next_step="Give 2 to 5, for example --trace 3.")


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
