"""Weights of our own models: drawn at random, read from and written as Hugging Face checkpoints."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch

from ongpu.errors import UsageError, WorkError

INITIAL_STD: Final = 0.02
_ROWS_AT_ONCE: Final = 4096
_DRAWERS: Final = 16


def draw(model: Any, *, seed: int, std_of: Callable[[str], float], norm: float = 1.0) -> None:
    """Fill every weight: matrices from a normal distribution, norms with ``norm``, biases with 0.

    Each matrix is drawn on the CPU from generators of its own (seed, name, rows), so the numbers depend neither on the
    device it is on nor on the order in which threads fill it.
    """

    def fill(rows: Any, name: str, part: int) -> None:
        drawn = torch.empty(rows.shape, device="cpu")
        digest = hashlib.sha256(f"{seed}/{name}/{part}".encode()).digest()
        drawn.normal_(0.0, std_of(name), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        rows.copy_(drawn)

    parts = []
    for name, weight in model.named_parameters():
        plain = weight.detach()
        if weight.dim() == 1:
            plain.fill_(0.0 if name.endswith("bias") else norm)
        else:
            parts += [(rows, name, part) for part, rows in enumerate(plain.split(_ROWS_AT_ONCE))]
    parts.sort(key=lambda one: -one[0].numel())
    # torch releases the interpreter lock while it draws and copies
    with concurrent.futures.ThreadPoolExecutor(max_workers=_DRAWERS) as pool:
        for done in [pool.submit(fill, *one) for one in parts]:
            done.result()


def save(folder: Path, *, config: Mapping[str, object], weights: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    :raises WorkError: the disk is full or cannot be written.
    """
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    plain = {name: weight.detach().to("cpu").contiguous() for name, weight in weights.items()}
    try:
        safetensors.torch.save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise WorkError(f"{error}.", next_step="Make room on the disk.") from None
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes it owner-only


def load(model: Any, folder: Path, *, rename: Callable[[str], str | None]) -> None:
    """Copy the checkpoint in ``folder`` into ``model``.

    :param rename: from a tensor's name in the file to ours; ``None`` for one that is not needed.
    :raises UsageError: a file or a weight is missing, or a shape disagrees; it is named.
    """
    wanted = dict(model.named_parameters())
    seen: set[str] = set()
    with torch.no_grad():
        for file, name, tensor in _tensors(folder):
            ours = rename(name)
            if ours is None:
                continue
            if ours not in wanted:
                raise _disagree(folder, f"{file} has {name}, which config.json has no place for")
            if wanted[ours].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} in {file}, {tuple(wanted[ours].shape)} by config.json"
                raise _disagree(folder, f"{name} is {shapes}")
            if ours in seen and not torch.equal(wanted[ours], tensor.to(wanted[ours])):
                raise _disagree(folder, f"by config.json {name} in {file} is {ours}, by its numbers it is not")
            wanted[ours].copy_(tensor)
            seen.add(ours)
    missing = sorted(set(wanted) - seen)
    if missing:
        raise _disagree(folder, f"{len(missing)} weights are missing, the first is {missing[0]}")


def _tensors(folder: Path) -> Iterator[tuple[str, str, Any]]:
    for name in shards(folder):
        try:
            with safetensors.safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    yield name, key, file.get_tensor(key)
        except (OSError, safetensors.SafetensorError) as error:
            raise _disagree(folder, f"{name} cannot be read: {error}") from None


def shards(folder: Path) -> list[str]:
    """The names of the checkpoint's safetensors files; empty where it has none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError):
            raise _disagree(folder, f"{index.name} is damaged") from None
        if outside := next((name for name in names if Path(name).name != name), None):
            raise _disagree(folder, f"{index.name} names {outside}, which is no file of that folder")
        return names
    return ["model.safetensors"] if (folder / "model.safetensors").is_file() else []


def _disagree(folder: Path, reason: str) -> UsageError:
    return UsageError(f"The model in {folder} cannot be used: {reason}.", next_step="Give a folder whose files agree.")
