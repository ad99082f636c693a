"""The same pipeline on a real GPU. Run there with ``pytest tests/training/test_training_gpu.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ongpu.training.attention import Layout, attend
from ongpu.training.main import main

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.gpu


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(folder: Path, device: str = "cuda", **changes: object) -> list[float]:
    values: dict[str, object] = {"batch_size": 4, "max_steps": 12, "tensorboard": False, "learning_rate": 3e-4}
    folder.mkdir()
    path = folder / "job.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**values, **changes}.items()))
    assert main(["--config", str(path), "--output", str(folder / "out"), "--device", device]) == 0
    return [one["loss"] for one in metrics(folder / "out")]


def test_the_milestone_configuration_runs_on_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = ROOT / "training/configs/submission_local.yaml", tmp_path / "out"
    options = ["--config", config, "--output", out, "--dataset", "dev-reasoning-v2", "--device", "cuda"]
    assert main([*map(str, options), "--max_steps", "12"]) == 0
    assert capsys.readouterr().out.startswith(f"Using device: cuda\nDevice name: {torch.cuda.get_device_name(0)}")
    series = metrics(out)
    assert {one["device"] for one in series} == {"cuda"}
    assert all(one["memory_reserved_bytes"] > 124_439_808 * 16 for one in series)
    assert series[-1]["loss"] < series[0]["loss"]
    assert json.loads((out / "run.json").read_text())["step_recorded"] is True
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("packing", [False, True])
def test_a_recorded_step_computes_what_an_eager_one_does(tmp_path: Path, *, precision: str, packing: bool) -> None:
    common: dict[str, Any] = {"precision": precision, "packing": packing, "max_seq_length": 200}
    eager = train(tmp_path / "eager", cuda_graph="never", **common)
    recorded = train(tmp_path / "recorded", cuda_graph="always", **common)
    assert recorded == pytest.approx(eager, rel=1e-5 if precision == "float32" else 5e-3)


def test_a_recorded_step_may_compute_its_blocks_twice(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", cuda_graph="always", packing=True, precision="bfloat16")
    twice = train(tmp_path / "twice", cuda_graph="always", packing=True, precision="bfloat16", recompute_blocks=True)
    assert twice == pytest.approx(plain, rel=5e-3)


def test_accumulation_inside_a_recorded_step(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", batch_size=6)
    parts = train(tmp_path / "parts", batch_size=2, grad_accumulation_steps=3)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_gpu_and_cpu_train_the_same_series_in_float32(tmp_path: Path) -> None:
    gpu, cpu = train(tmp_path / "gpu"), train(tmp_path / "cpu", device="cpu")
    assert gpu == pytest.approx(cpu, rel=1e-3)
    assert gpu[0] == pytest.approx(cpu[0], rel=1e-5)


def test_packed_bfloat16_has_the_series_of_rows(tmp_path: Path) -> None:
    rows = train(tmp_path / "rows", precision="bfloat16", max_seq_length=200)
    packed = train(tmp_path / "packed", precision="bfloat16", max_seq_length=200, packing=True)
    assert packed == pytest.approx(rows, rel=5e-3)


@pytest.mark.filterwarnings("default")
def test_compiled_blocks_have_the_same_series(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", packing=True, precision="bfloat16")
    compiled = train(tmp_path / "compiled", packing=True, precision="bfloat16", compile="always")
    assert compiled == pytest.approx(plain, rel=5e-3)


def test_the_flash_operator_is_the_spread_out_attention() -> None:
    lengths, heads, longest = [5, 64, 1, 33], (8, 4), 64
    tokens = sum(lengths)
    ends = torch.tensor(lengths).cumsum(0)
    starts = ends - torch.tensor(lengths)
    place = torch.arange(longest)
    record = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    layout = Layout(
        positions=(torch.arange(tokens) - starts[record]).cuda(),
        boundaries=torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int().cuda(),
        spread=(starts[:, None] + torch.minimum(place[None], torch.tensor(lengths)[:, None] - 1)).reshape(-1).cuda(),
        gather=(record * longest + torch.arange(tokens) - starts[record]).cuda(),
        longest=longest,
    )
    generator = torch.Generator(device="cuda").manual_seed(0)
    leaves = [
        torch.randn(1, tokens, count, 64, device="cuda", generator=generator)
        for count in (heads[0], heads[1], heads[1])
    ]
    results = []
    for kind in (torch.float32, torch.bfloat16):
        parts = [leaf.detach().to(kind).requires_grad_() for leaf in leaves]
        mixed = attend(parts[0], parts[1], parts[2], layout)
        mixed.float().square().sum().backward()
        results.append([mixed, *(part.grad for part in parts)])
    for exact, fast in zip(*results, strict=True):
        assert float((fast.float() - exact).norm() / exact.norm()) < 2e-2


def test_a_run_resumes_the_same_series(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", save_every=6)
    config = tmp_path / "straight/job.yaml"
    out = tmp_path / "resumed"
    assert main(["--config", str(config), "--output", str(out), "--device", "cuda", "--max_steps", "6"]) == 0
    assert main(["--config", str(config), "--output", str(out), "--device", "cuda", "--resume"]) == 0
    assert [one["loss"] for one in metrics(out)] == pytest.approx(straight, rel=1e-4)


@pytest.mark.parametrize("graph", ["always", "never"])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], graph: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"learning_rate: 1.0e+30\nmax_grad_norm: 0\ntensorboard: false\ncuda_graph: {graph}\n")
    assert main(["--config", str(path), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 1
    assert "the update was withheld" in capsys.readouterr().err


def test_too_large_a_batch_is_out_of_memory_and_never_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: gpt2\nbatch_size: 200000\nmax_seq_length: 200\nmax_steps: 2\ntensorboard: false\n")
    assert main(["--config", str(path), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error [out-of-memory]")
    assert "fits: one step of it was just measured" in error


@pytest.mark.parametrize("hidden", ["", "-1", "GPU-00000000-0000-0000-0000-000000000000"])
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_hidden_gpus_are_a_named_cause_and_no_step_is_done(tmp_path: Path, hidden: str, device: str) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "training/run_train_torch.py", "--device", device, "--output", tmp_path / "o"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": hidden}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 3
    assert "error [no-gpu-visible]" in ended.stderr
    assert f"CUDA_VISIBLE_DEVICES is set to {hidden!r}" in ended.stderr
    assert "step" not in ended.stdout
    assert not (tmp_path / "o").exists()
