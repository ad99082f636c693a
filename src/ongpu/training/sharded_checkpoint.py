"""Checkpoints of weights in parts: each rank writes and reads its own, through ``torch.distributed.checkpoint``.

The library says who writes what, gathers what went wrong on any rank, and fits the parts to another number of ranks.
Of its formats the one of safetensors is taken, the other is a pickle. Around it stands what ``checkpoint`` does for one
file: written aside; each rank digests its own files; when all have, the first rank writes the sums and renames.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from ongpu.errors import UsageError, WorkError
from ongpu.training import checkpoint
from ongpu.training.ranks import Alone

FILE_BYTES: Final = 256 << 20
"""A rank's part is written in files of about so much: the library holds a file in memory two to three times."""
_ONE_DISK: Final = "Put --output on a disk that all nodes share, or take parallel: ddp, where only rank 0 writes."


def save(
    output: Path,
    *,
    step: int,
    tensors: Mapping[str, Any],
    settings: Mapping[str, object],
    keep: int,
    ranks: Alone,
) -> str:
    """Write the checkpoint of ``step`` finished steps, all ranks together; its folder.

    :param tensors: of every rank, under the same names.
    :raises WorkError: on all ranks, where one cannot write; older checkpoints are as they were.
    """
    aside = Path(ranks.share("checkpoint begun", lambda: str(checkpoint.begin(output, step))))
    sums, failed = dict[str, str](), _write(aside, tensors, ranks)
    if not failed:
        try:
            sums = {file.name: checkpoint.digest(file) for file in aside.glob(f"shard-{ranks.rank + 1:05d}-*")}
        except OSError as error:
            failed = f"rank {ranks.rank}: {error}"
    failures = [one for one in ranks.gather("checkpoint failed", failed) if one]
    if failures:
        if ranks.first:
            checkpoint.give_up(output, step)
        raise checkpoint.cannot_write(output, step, failures[0])
    every = {name: value for one in ranks.gather("checkpoint sums", sums) for name, value in one.items()}

    def finish() -> str:
        if {*every} != {file.name for file in aside.glob("*.safetensors")}:
            raise checkpoint.cannot_write(output, step, "its files are not those that the ranks wrote")
        return str(checkpoint.finish(output, step=step, sums=every, settings=settings, keep=keep))

    return ranks.share("checkpoint", finish)


def _write(aside: Path, tensors: Mapping[str, Any], ranks: Alone) -> str:
    """Write this rank's files and wait for the others; what went wrong on any of them, empty if nothing."""
    files, filled = dict[str, int](), 0
    for key, tensor in tensors.items():
        files[key] = 1 + filled // FILE_BYTES
        filled += tensor.numel() * tensor.itemsize // ranks.world_size
    writer = HuggingFaceStorageWriter(str(aside), fqn_to_index_mapping=files, save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        return _first(error)
    return ""


def load(found: checkpoint.Checkpoint, tensors: Mapping[str, Any], states: Mapping[str, Any], *, ranks: Alone) -> None:
    """Fill ``tensors`` in place, and of ``states`` those that are there; a rank more than there were has none.

    :raises UsageError: this rank does not see the files that the first one checked.
    :raises WorkError: they cannot be read, or do not fit.
    """
    unseen = next((name for name in found.files if not (found.path / name).is_file()), None)
    if unseen:
        raise UsageError(f"Rank {ranks.rank} has no {found.path / unseen}, which rank 0 has.", next_step=_ONE_DISK)
    reader = HuggingFaceStorageReader(str(found.path))
    there = reader.read_metadata().state_dict_metadata
    wanted = {**tensors, **{key: state for key, state in states.items() if key in there}}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # by a process alone
            dcp.load(wanted, storage_reader=reader)
    except CheckpointException as error:
        raise WorkError(
            f"The checkpoint {found.path} cannot be read: {_first(error)}.",
            next_step="Remove that folder to resume from the one before, or start afresh in another --output.",
        ) from None


def refuse_apart(output: Path, ranks: Alone) -> None:
    """:class:`UsageError` where ``output`` is not one folder for all ranks: now, not at the first checkpoint.

    Each rank leaves a file there, and the first one looks for all of them.
    """
    token = ranks.share("token", os.getpid)
    marks = [output / f".rank-{token}-{rank}" for rank in range(ranks.world_size)]
    mark = marks[ranks.rank]

    def look() -> str:
        missed = [rank for rank, one in enumerate(marks) if not one.exists()]
        return f"The folder {output} of rank {missed[0]} is not that of rank 0." if missed else ""

    try:
        mark.touch()
        ranks.gather("marked", ranks.rank)
        apart = ranks.share("apart", look)
    except OSError as error:
        raise UsageError(f"Rank {ranks.rank} cannot write {mark}: {error.strerror}.", next_step=_ONE_DISK) from None
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
    if apart:
        raise UsageError(apart, next_step=_ONE_DISK)


def _first(error: CheckpointException) -> str:
    rank, (reason, _) = min(error.failures.items())
    return f"rank {rank}: {type(reason).__name__}: {reason}"
