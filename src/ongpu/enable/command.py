"""Which command is trained with, by which Python, in which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ongpu.evidence.challenge import seed
from ongpu.evidence.place import free_sibling

MILESTONE_SCRIPT = Path("training/run_train_torch.py")
MILESTONE_CONFIG = Path("training/configs/submission_local.yaml")
COMPARED_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand:
    """One training command line.

    ``output`` is where our own trainer writes, ``None`` for a command of the user's; ``ours`` says that its
    options are known, so that the same steps can be run on the CPU.
    """

    argv: tuple[str, ...]
    output: Path | None
    ours: bool
    staged: bool

    def on_cpu(self, *, steps: int, output: Path) -> tuple[str, ...]:
        """The same steps on the CPU, fewer of them, written elsewhere."""
        words = list(self.argv)
        for name, value in (("--device", "cpu"), ("--max_steps", str(steps)), ("--output", str(output))):
            words[words.index(name) + 1] = value
        return tuple(words)


def is_milestone(cwd: Path) -> bool:
    """Whether the folder is the repository that the milestone's command is written for."""
    return (cwd / MILESTONE_SCRIPT).is_file() and (cwd / MILESTONE_CONFIG).is_file()


def train_command(
    command: tuple[str, ...], *, python: Path, cwd: Path, rehearsed: bool, nonce: str | None = None
) -> TrainCommand:
    """The user's command, or the milestone's where this is its repository, or the reference training.

    With a nonce our own trainer starts from the seed that follows from it. A rehearsal trains the embedded default
    model on the CPU: the milestone's own takes minutes there.
    """
    if command:
        return TrainCommand(argv=command, output=None, ours=False, staged=False)
    milestone = is_milestone(cwd) and not rehearsed
    wanted = Path("output/m40_gpu_run") if milestone else Path("output/rehearsal" if rehearsed else "output/ongpu_run")
    output = free_sibling(cwd / wanted).relative_to(cwd)
    options = ("--output", f"./{output.as_posix()}", "--dataset", "dev-reasoning-v2")
    seeded = () if nonce is None else ("--seed", str(seed(nonce)))
    device = ("--device", "cpu" if rehearsed else "cuda", "--max_steps", "50", *seeded)
    if milestone:
        head = (str(python), str(MILESTONE_SCRIPT), "--config", str(MILESTONE_CONFIG))
        return TrainCommand(argv=(*head, *options, *device), output=output, ours=True, staged=False)
    return TrainCommand(
        argv=(str(python), "-m", "ongpu.training", *options, *device), output=output, ours=True, staged=True
    )


def child_environment(base: Mapping[str, str], *, python: Path, prefix: Path, staged: Path | None) -> dict[str, str]:
    """The environment of a command run with a Python environment activated, as its activation script would.

    ``staged`` goes first on the child's Python path.
    """
    made = {name: value for name, value in base.items() if name != "PYTHONHOME"}
    made["VIRTUAL_ENV"] = str(prefix)
    made["PATH"] = os.pathsep.join((str(python.parent), base.get("PATH", os.defpath)))
    if staged is not None:
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (str(staged), base.get("PYTHONPATH"))))
    return made
