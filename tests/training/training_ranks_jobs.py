"""Processes that train together, for the tests of both devices: each runs many jobs, since importing torch is slow."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ongpu.training.dataset import jsonl

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
SHAPE: dict[str, object] = {
    "model_type": "llama", "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "eos_token_id": 0,
}  # fmt: skip

# one job after the other, each with a store of its own
_JOBS = """
import json, os, sys
from ongpu.training.main import main
for port, ranks in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    print("STATUS", main(ranks[int(os.environ.get("RANK", 0))]), flush=True)
"""

Job = Sequence[Sequence[object]]
"""The arguments of every rank."""


def start(jobs: Sequence[Job], *, of_rank: Sequence[Mapping[str, str]] = ()) -> list[subprocess.Popen[str]]:
    """A process a rank, with what ``of_rank`` adds to its environment; each runs all ``jobs``."""
    plan = json.dumps([(free_port(), [[*map(str, rank)] for rank in job]) for job in jobs])
    size = len(jobs[0])
    common = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "MASTER_ADDR": "127.0.0.1", **LOOPBACK}
    places = [{"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", _JOBS, plan],
            env={**os.environ, **common, **(places[rank] if size > 1 else {}), **(of_rank[rank] if of_rank else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(children: Sequence[subprocess.Popen[str]]) -> list[tuple[list[int], str, str]]:
    """For each rank: its statuses, and what it wrote to both streams."""
    try:
        ended = [child.communicate(timeout=90) for child in children]
    finally:
        for child in children:
            child.kill()
    return [
        ([int(line.split()[1]) for line in out.splitlines() if line.startswith("STATUS")], out, err)
        for out, err in ended
    ]


def read_until(child: subprocess.Popen[str], beginning: str) -> list[str]:
    """The lines ``child`` says up to the first with this ``beginning``; all there are where none has it."""
    assert child.stdout is not None
    read: list[str] = []
    for line in child.stdout:
        read.append(line)
        if line.startswith(beginning):
            break
    return read


def free_port() -> int:
    """One that nobody listens at, below those that the system gives away by itself: it is taken some time later."""
    while True:
        with socket.socket() as one, contextlib.suppress(OSError):
            port = random.randint(10_000, 32_000)
            one.bind(("127.0.0.1", port))
            return port


def config(folder: Path, name: str, **values: object) -> Path:
    """A configuration file in ``folder``."""
    path = folder / f"{name}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return path


def small(folder: Path, name: str, **changes: object) -> Path:
    """A configuration of a small model and few records, both made in ``folder``."""
    shape, data = folder / "shape/config.json", folder / "data.jsonl"
    shape.parent.mkdir(exist_ok=True)
    shape.write_text(json.dumps(SHAPE))
    data.write_bytes(b"".join(jsonl().splitlines(keepends=True)[:60]))
    values = {"batch_size": 2, "max_seq_length": 32, "vocab_size": 400, "tensorboard": False, "weights": "random"}
    return config(
        folder, name, **{"model": str(shape.parent), "dataset": str(data), "max_steps": 40, **values, **changes}
    )


def on_cpu(config: Path, out: Path, *more: object) -> list[object]:
    """The arguments of a rank on the CPU."""
    return ["--config", config, "--output", out, "--device", "cpu", *more]


def series(folder: Path) -> list[dict[str, Any]]:
    """Every step of the run in ``folder``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [one["loss"] for one in series(folder)]
