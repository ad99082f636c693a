"""Two GPUs that train as one. Run there with ``pytest tests/training/test_training_ranks_gpu.py``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training/run_train_torch.py"
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def config(folder: Path, name: str, **changes: object) -> Path:
    values: dict[str, object] = {"batch_size": 4, "max_steps": 12, "tensorboard": False, "learning_rate": 3e-4}
    path = folder / f"{name}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**values, **changes}.items()))
    return path


def train(config: Path, out: Path, *more: object, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, SCRIPT, "--config", config, "--output", out, "--device", "cuda", *more]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("way", "near"),
    [
        ({"cuda_graph": "never"}, 1e-4),
        ({"parallel": "fsdp"}, 1e-4),
        ({"precision": "bfloat16", "packing": True, "max_seq_length": 200}, 1e-2),
        ({"precision": "bfloat16", "packing": True, "max_seq_length": 200, "kernels": "never"}, 1e-2),
        ({"precision": "bfloat16", "packing": True, "max_seq_length": 200, "cuda_graph": "always"}, 1e-2),
        ({"precision": "bfloat16", "packing": True, "max_seq_length": 200, "parallel": "fsdp"}, 1e-2),
        ({"precision": "bfloat16", "grad_accumulation_steps": 2}, 1e-2),
    ],
    ids=["float32", "parts", "kernels", "plain", "recorded", "half-parts", "micro-steps"],
)
def test_two_gpus_have_the_series_of_one_with_both_their_batches(
    tmp_path: Path, way: dict[str, Any], near: float
) -> None:
    ended = train(config(tmp_path, "two", **way), tmp_path / "two")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    one = config(tmp_path, "one", **{**way, "batch_size": 8, "parallel": "auto"})
    alone = train(one, tmp_path / "one", ranks=1)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=near)
    facts = json.loads((tmp_path / "two/run.json").read_text())
    assert len({rank["uuid"] for rank in facts["ranks"]}) == 2
    assert all(rank["uuid"].startswith("GPU-") for rank in facts["ranks"])
    assert all(f"Rank {rank} of 2: " in ended.stdout for rank in range(2))
    if "cuda_graph" in way:
        assert facts["step_recorded"] is (way["cuda_graph"] == "always")


def test_two_gpus_resume_what_they_began(tmp_path: Path) -> None:
    path = config(tmp_path, "job", save_every=6, precision="bfloat16", packing=True)
    assert train(path, tmp_path / "straight").returncode == 0
    assert train(path, tmp_path / "out", "--max_steps", 12, "--seed", 42).returncode == 0
    (tmp_path / "out/checkpoints/step-000012").rename(tmp_path / "aside")
    ended = train(path, tmp_path / "out", "--resume")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "straight"), rel=1e-2)


def spawn(config: Path, out: Path, *visible: str) -> list[subprocess.Popen[str]]:
    """A process a rank without a launcher that would end the others; ``visible`` are the GPUs each sees."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(len(visible))}
    command = [*map(str, [sys.executable, SCRIPT, "--config", config, "--output", out, "--device", "cuda"])]
    return [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": gpus},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, gpus in enumerate(visible)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "cause", "word"),
    [
        (("0,1", ""), "no-gpu-visible", "rank 1 of 2: "),
        (("0", "0"), "multi-gpu-comm", "Ranks 0 and 1 were both given GPU-"),
    ],
)
def test_a_rank_without_a_gpu_of_its_own_stops_all(
    tmp_path: Path, visible: tuple[str, ...], cause: str, word: str
) -> None:
    children = spawn(config(tmp_path, "job"), tmp_path / "out", *visible)
    errors = "".join(child.communicate(timeout=60)[1] for child in children)
    assert [child.returncode for child in children] == [3, 3]
    assert f"error [{cause}]" in errors
    assert word in errors
    assert errors.count("next: ") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["killed", "out of memory"])
def test_a_rank_that_fails_in_the_middle_does_not_leave_the_other_hanging(tmp_path: Path, how: str) -> None:
    path = config(tmp_path, "job", max_steps=100_000, log_every=1, model="gpt2")
    first, second = children = spawn(path, tmp_path / "out", "0,1", "0,1")
    held = None
    if how == "out of memory":  # leave the second rank room for the model, not for its gradients
        free, _ = torch.cuda.mem_get_info(1)
        held = torch.empty(free - (2 << 30), dtype=torch.uint8, device="cuda:1")
    assert first.stdout is not None
    if how == "killed":
        for line in first.stdout:
            if line.startswith("step 5/"):
                break
        second.kill()
    ended = [child.communicate(timeout=60)[1] for child in children]
    del held
    torch.cuda.empty_cache()
    if how == "killed":
        assert first.returncode in {1, 3}, ended[0]
        assert "rank 1" in ended[0] or "multi-gpu-comm" in ended[0]
    else:
        assert [first.returncode, second.returncode] == [3, 3], ended
        assert "error [out-of-memory]: rank 1 of 2: " in ended[1]
        assert "error" not in ended[0]
