"""Checkpoints that survive a kill at any byte: written aside, synced, renamed, with their digests.

``checkpoints/step-000050/`` holds weights, optimizer state and random state in ``state.safetensors`` (or each rank's
part of them in files of its own, see ``sharded_checkpoint``), ``meta.json`` (step, settings, names of those files) and
``SHA256SUMS`` over all of them, which ``sha256sum -c`` reads. A folder that lacks a file or whose sums do not agree is
not used: the newest good one is found by itself. Nothing is ever unpickled.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ongpu.errors import UsageError, WorkError

FOLDER: Final = "checkpoints"
_NAME: Final = re.compile(r"step-(\d{6,})\Z")
_STATE: Final = "state.safetensors"
_META: Final = "meta.json"
_SUMS: Final = "SHA256SUMS"
_DIGESTS_AT_ONCE: Final = 8
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
    files: Sequence[str]

    @property
    def in_parts(self) -> bool:
        """Whether each rank wrote files of its own."""
        return list(self.files) != [_STATE]


def save(output: Path, *, step: int, tensors: Mapping[str, Any], settings: Mapping[str, object], keep: int = 2) -> Path:
    """Write the checkpoint of ``step`` finished steps and remove all but the newest ``keep``.

    :raises WorkError: the disk is full or cannot be written; older checkpoints are as they were.
    """
    import safetensors.torch  # noqa: PLC0415 - imported where it is needed, torch already is

    aside = begin(output, step)
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with _told(output, step):
        safetensors.torch.save_file(plain, aside / _STATE)
        sums = {_STATE: digest(aside / _STATE)}
    return finish(output, step=step, sums=sums, settings=settings, keep=keep)


def begin(output: Path, step: int) -> Path:
    """The empty folder aside in which the checkpoint of ``step`` is written; :class:`WorkError` as in ``save``."""
    aside = _aside(output, step)
    with _told(output, step):
        aside.parent.mkdir(exist_ok=True)
        for left in aside.parent.glob(".partial-step-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
    return aside


def finish(output: Path, *, step: int, sums: Mapping[str, str], settings: Mapping[str, object], keep: int) -> Path:
    """Sync the files that were written aside, name and digest in ``sums``, and make a checkpoint of them.

    :raises WorkError: as in ``save``; what was written aside is removed.
    """
    aside = _aside(output, step)
    final = aside.with_name(f"step-{step:06d}")
    with _told(output, step):
        meta = {"step": step, "files": sorted(sums), "settings": dict(settings)}
        (aside / _META).write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
        sums = {**sums, _META: digest(aside / _META)}
        (aside / _SUMS).write_text("".join(f"{value}  {name}\n" for name, value in sums.items()), "ascii")
        for name in (*sums, _SUMS):
            sync(aside / name)
        sync(aside)
        if final.exists():  # damaged, else this step would not have been done again
            shutil.rmtree(final)
        aside.rename(final)
        sync(final.parent)
    older = [one for one in _folders(output) if _step(one) <= step]  # what is newer was passed over: it is damaged
    for old in older[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def cannot_write(output: Path, step: int, reason: str) -> WorkError:
    """What to raise where the checkpoint of ``step`` cannot be written."""
    older = "(the older checkpoint is intact) and continue with --resume."
    return WorkError(
        f"The checkpoint of step {step} cannot be written to {output / FOLDER}: {reason}.",
        next_step=f"Free some space {older if _folders(output) else 'and start in another --output.'}",
    )


def give_up(output: Path, step: int) -> None:
    """Remove what was written aside."""
    shutil.rmtree(_aside(output, step), ignore_errors=True)


def good(output: Path, step: int) -> Path | None:
    """The checkpoint of ``step``, where there is one already and its digests agree."""
    path = _aside(output, step).with_name(f"step-{step:06d}")
    try:
        return _checked(path).path
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _aside(output: Path, step: int) -> Path:
    return output / FOLDER / f".partial-step-{step:06d}"


@contextlib.contextmanager
def _told(output: Path, step: int) -> Iterator[None]:
    """Turn what the disk refuses into one error, with nothing left aside."""
    import safetensors  # noqa: PLC0415 - imported where it is needed

    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        give_up(output, step)
        raise cannot_write(output, step, str(error)) from None


def _checked(path: Path) -> Checkpoint:
    lines = (path / _SUMS).read_text("ascii").splitlines()
    sums = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    meta = json.loads((path / _META).read_text("utf-8"))
    files = [str(name) for name in meta.get("files", [_STATE])]
    foreign = {one.name for one in path.glob("*.safetensors")} - {*files}
    if foreign:
        raise ValueError(f"{min(foreign)} is none of its files")
    names = (_META, *files)
    with concurrent.futures.ThreadPoolExecutor(_DIGESTS_AT_ONCE) as pool:
        for name, found in zip(names, pool.map(digest, [path / name for name in names]), strict=True):
            if sums.get(name) != found:
                raise ValueError(f"the digest of {name} does not agree")
    return Checkpoint(path=path, step=int(meta["step"]), settings=dict(meta["settings"]), files=files)
