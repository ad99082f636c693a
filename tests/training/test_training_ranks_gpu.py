"""Two GPUs that train as one. Run there with ``pytest tests/training/test_training_ranks_gpu.py``; about a minute.

Everything but the rank that runs out of memory is started at once: what takes the time are imports and waiting.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ongpu.training import checkpoint
from tests.training import training_forked_ranks as forked
from tests.training import training_ranks_jobs as ranks

pytestmark = pytest.mark.gpu

COMMON: dict[str, object] = {"batch_size": 4, "max_steps": 12, "tensorboard": False, "learning_rate": 3e-4}
HALF: dict[str, object] = {"precision": "bfloat16", "packing": True, "max_seq_length": 200}
WAYS: dict[str, tuple[dict[str, object], float]] = {
    "float32": ({"cuda_graph": "never"}, 1e-4),
    "parts": ({"parallel": "fsdp"}, 1e-4),
    "kernels": (HALF, 1e-2),
    "plain": ({**HALF, "kernels": "never"}, 1e-2),
    "recorded": ({**HALF, "cuda_graph": "always"}, 1e-2),
    "half-parts": ({**HALF, "parallel": "fsdp"}, 1e-2),
    "micro-steps": ({"precision": "bfloat16", "grad_accumulation_steps": 2}, 1e-2),
}
SAVED: dict[str, object] = {"save_every": 6, "precision": "bfloat16"}
PARTS: dict[str, object] = {**SAVED, "parallel": "fsdp"}
CUT: dict[int, forked.Fault] = {1: ("open to write", ".partial-step-000012/shard-00002", "cut")}
WITHOUT = {"no gpu": ("0,1", ""), "shared": ("0", "0")}
"""The GPUs each rank sees."""


def options(config: Path, out: Path, *more: object) -> list[object]:
    return ["--config", config, "--output", out, "--device", "cuda", *more]


@dataclass(frozen=True)
class Started:
    """Processes that are under way, and where they write."""

    folder: Path
    two: list[subprocess.Popen[str]]
    one: list[subprocess.Popen[str]]
    without: dict[str, list[subprocess.Popen[str]]]
    killed: list[subprocess.Popen[str]]
    parts: subprocess.Popen[str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    folder = tmp_path_factory.mktemp("ranks")
    both: list[ranks.Job] = []
    alone: list[ranks.Job] = []
    for name, (way, _) in WAYS.items():
        two = ranks.config(folder, name, **COMMON, **way)
        one = ranks.config(folder, f"{name}-alone", **{**COMMON, **way, "batch_size": 8, "parallel": "auto"})
        both.append([options(two, folder / name)] * 2)
        alone.append([options(one, folder / f"{name}-alone")])
    saved = ranks.config(folder, "saved", **COMMON, **SAVED)
    both.append([options(saved, folder / "saved")] * 2)
    both.append([options(saved, folder / "begun", "--max_steps", 6)] * 2)
    both.append([options(saved, folder / "begun", "--resume")] * 2)
    parts = ranks.config(folder, "parts-saved", **COMMON, **PARTS)
    begun = {
        "parts-straight": [options(parts, folder / "parts-straight")] * 2,
        "parts-begun": [options(parts, folder / "parts-begun", "--max_steps", 6)] * 2,
        "parts-cut": [options(parts, folder / "parts-cut")] * 2,
    }
    again = {
        "parts-again": [options(parts, folder / "parts-again", "--resume")] * 2,
        "parts-wholes": [options(parts, folder / "parts-wholes", "--resume", "--parallel", "ddp")] * 2,
        "parts-cut again": [options(parts, folder / "parts-cut", "--resume")] * 2,
    }
    copies = dict.fromkeys(("parts-again", "parts-wholes"), "parts-begun")
    long = ranks.config(folder, "long", **{**COMMON, "max_steps": 100_000, "log_every": 1})
    without = {
        name: ranks.start(
            [[options(long, folder / name)] * 2], of_rank=[{"CUDA_VISIBLE_DEVICES": gpus} for gpus in visible]
        )
        for name, visible in WITHOUT.items()
    }
    everything = Started(
        folder=folder,
        two=ranks.start(both),
        one=ranks.start(alone),
        without=without,
        killed=ranks.start([[options(long, folder / "killed")] * 2]),
        parts=forked.start(folder, [begun, again], faults={"parts-cut": CUT}, copies=copies, once=()),
    )
    yield everything
    children = (*everything.two, *everything.one, *everything.killed, everything.parts)
    for child in itertools.chain(children, *without.values()):
        child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def ended(started: Started) -> list[tuple[list[int], str, str]]:
    """The two ranks and the one process, when they are done."""
    return [*ranks.finish(started.two), *ranks.finish(started.one)]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_rank_without_a_gpu_of_its_own_stops_all(started: Started, name: str) -> None:
    cause, word = {
        "no gpu": ("no-gpu-visible", "rank 1 of 2: "),
        "shared": ("multi-gpu-comm", "Ranks 0 and 1 were both given GPU-"),
    }[name]
    first, second = ranks.finish(started.without[name])
    errors = first[2] + second[2]
    assert (first[0], second[0]) == ([3], [3]), errors
    assert f"error [{cause}]" in errors
    assert word in errors
    assert errors.count("next: ") == 1
    assert not (started.folder / name).exists()


def test_a_killed_rank_does_not_leave_the_other_hanging(started: Started) -> None:
    said = "".join(ranks.read_until(started.killed[0], "step 5/"))
    started.killed[1].kill()
    first, _ = ranks.finish(started.killed)
    assert "step 5/" in said, first[2]
    assert first[0][0] in {1, 3}, first[2]
    assert "rank 1" in first[2] or "multi-gpu-comm" in first[2]


@pytest.mark.parametrize("name", WAYS)
def test_two_gpus_have_the_series_of_one_with_both_their_batches(
    started: Started, ended: list[tuple[list[int], str, str]], name: str
) -> None:
    place, (way, near) = list(WAYS).index(name), WAYS[name]
    for statuses, out, err in ended:
        assert statuses[place : place + 1] == [0], out + err
    two, one = started.folder / name, started.folder / f"{name}-alone"
    assert ranks.losses(two) == pytest.approx(ranks.losses(one), rel=near)
    facts: dict[str, Any] = json.loads((two / "run.json").read_text())
    assert len({rank["uuid"] for rank in facts["ranks"]}) == 2
    assert all(rank["uuid"].startswith("GPU-") for rank in facts["ranks"])
    assert all(f"Rank {rank} of 2: " in ended[0][1] for rank in range(2))
    if "cuda_graph" in way:
        assert facts["step_recorded"] is (way["cuda_graph"] == "always")


def test_two_gpus_resume_what_they_began(started: Started, ended: list[tuple[list[int], str, str]]) -> None:
    for statuses, out, err in ended[:2]:
        assert statuses[len(WAYS) :] == [0, 0, 0], out + err
    assert "Resuming after step 6" in ended[0][1]
    begun, straight = (ranks.losses(started.folder / name) for name in ("begun", "saved"))
    assert len(begun) == len(straight) == 12
    assert begun == pytest.approx(straight, rel=1e-2)


def test_two_gpus_resume_from_the_parts_that_each_wrote(started: Started) -> None:
    statuses = forked.finish(started.parts)
    said = {path.stem: path.read_text() for path in started.folder.glob("parts-*.txt")}
    assert (statuses["parts-straight"], statuses["parts-begun"]) == ([0, 0], [0, 0]), said
    assert statuses["parts-cut"][0] in {1, 3}, said
    assert statuses["parts-cut"][1] == -signal.SIGXFSZ, said
    found = checkpoint.newest(started.folder / "parts-begun", note=pytest.fail)
    assert found is not None
    assert {name.split("-")[1] for name in found.files} == {"00001", "00002"}
    straight = ranks.losses(started.folder / "parts-straight")
    for name, folder in (("again", "again"), ("wholes", "wholes"), ("cut again", "cut")):
        assert statuses[f"parts-{name}"] == [0, 0], said
        assert "Resuming after step 6" in said[f"parts-{name}-0"]
        losses = ranks.losses(started.folder / f"parts-{folder}")
        assert len(losses) == 12
        assert losses == pytest.approx(straight, rel=1e-2)


def test_a_rank_out_of_memory_stops_all(started: Started, ended: list[tuple[list[int], str, str]]) -> None:
    assert ended  # the others are done: memory is taken here
    large = {**COMMON, "model": "gpt2", "batch_size": 32, "max_seq_length": 512}
    path = ranks.config(started.folder, "large", **large)
    free, _ = torch.cuda.mem_get_info(1)
    held = torch.empty(free - (3 << 30), dtype=torch.uint8, device="cuda:1")
    try:
        first, second = ranks.finish(ranks.start([[options(path, started.folder / "large")] * 2]))
    finally:
        del held
        torch.cuda.empty_cache()
    assert (first[0], second[0]) == ([3], [3]), first[2] + second[2]
    assert "error [out-of-memory]: rank 1 of 2: " in second[2]
    assert "error" not in first[2]
