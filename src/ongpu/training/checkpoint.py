"""Checkpoints that survive a kill at any byte: written aside, synced, renamed, with their digests.

``checkpoints/step-000050/`` holds ``state.safetensors`` (weights, optimizer state, random state), ``meta.json`` (step,
settings) and ``SHA256SUMS`` over both, which ``sha256sum -c`` reads. A folder whose sums do not agree is not used:
the newest good one is found by itself. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ongpu.errors import UsageError, WorkError

FOLDER: Final = "checkpoints"
_NAME: Final = re.compile(r"step-(\d{6,})\Z")
_STATE: Final = "state.safetensors"
_META: Final = "meta.json"
_SUMS: Final = "SHA256SUMS"
_IN_WORDS: Final = {
    "data_sha256": "bytes of data (--dataset)",
    "records_a_step": "product of batch_size, grad_accumulation_steps and number of ranks",
    "tokens_sha256": "tokenizer",
}
"""What a user can do about those settings that are no key of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose digests were checked. ``settings`` is what its run computed, for comparison."""

    path: Path
    step: int
    settings: Mapping[str, object]


def save(output: Path, *, step: int, tensors: Mapping[str, Any], settings: Mapping[str, object], keep: int = 2) -> Path:
    """Write the checkpoint of ``step`` finished steps and remove all but the newest ``keep``.

    :raises WorkError: the disk is full or cannot be written; older checkpoints are as they were.
    """
    import safetensors.torch  # noqa: PLC0415 - imported where it is needed, torch already is

    parent = output / FOLDER
    final = parent / f"step-{step:06d}"
    aside = parent / f".partial-step-{step:06d}"
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        parent.mkdir(exist_ok=True)
        for left in parent.glob(".partial-step-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
        safetensors.torch.save_file(plain, aside / _STATE)
        (aside / _META).write_text(json.dumps({"step": step, "settings": dict(settings)}, indent=2) + "\n", "utf-8")
        sums = "".join(f"{digest(aside / name)}  {name}\n" for name in (_STATE, _META))
        (aside / _SUMS).write_text(sums, "ascii")
        for name in (_STATE, _META, _SUMS):
            sync(aside / name)
        sync(aside)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        sync(parent)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        older = "(the older checkpoint is intact) and continue with --resume."
        raise WorkError(
            f"The checkpoint of step {step} cannot be written to {parent}: {error}.",
            next_step=f"Free some space {older if _folders(output) else 'and start in another --output.'}",
        ) from None
    for old in _folders(output)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(output: Path, *, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose digests agree; ``note`` is told of each that was passed over, and why."""
    for path in _folders(output):
        try:
            return _checked(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            note(f"Checkpoint {path.name} is not used: {error}.")
    return None


def load_tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its tensors, on the CPU."""
    import safetensors.torch  # noqa: PLC0415 - imported where it is needed, torch already is

    return dict(safetensors.torch.load_file(checkpoint.path / _STATE))


def refuse_other_run(checkpoint: Checkpoint, settings: Mapping[str, object]) -> None:
    """:class:`UsageError` naming the first setting in which a run differs from the one that wrote ``checkpoint``."""
    for key in sorted({*settings, *checkpoint.settings}):
        then, now = checkpoint.settings.get(key), settings.get(key)
        if then != now:
            raise UsageError(
                f"{checkpoint.path} was written by a run with {key} = {then}; this one has {now}.",
                next_step=f"Resume with the same {_IN_WORDS.get(key, key)}, or start afresh in another --output.",
            )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no descriptor of a folder
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(output: Path) -> list[Path]:
    """Finished checkpoint folders, newest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found = [path for path in (output / FOLDER).iterdir() if _NAME.match(path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _checked(path: Path) -> Checkpoint:
    lines = (path / _SUMS).read_text("ascii").splitlines()
    sums = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    for name in (_STATE, _META):
        if sums.get(name) != digest(path / name):
            raise ValueError(f"the digest of {name} does not agree")
    meta = json.loads((path / _META).read_text("utf-8"))
    return Checkpoint(path=path, step=int(meta["step"]), settings=dict(meta["settings"]))
