"""The front door for notebooks, in a Python of its own as a kernel is: cells are lines that it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_harness import environment, ongpu

pytestmark = pytest.mark.process
FAKETORCH = Path(__file__).parents[1] / "guard" / "faketorch"
TRAIN = """
import torch
weights = [torch.Tensor(1 << 20, "cpu", requires_grad=True)]
optimizer = torch.optim.Optimizer(weights)
def train(steps):
    for _ in range(steps):
        weights[0].grad = torch.Tensor(1 << 20, "cpu")
        optimizer.step()
"""


def cells(text: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = environment({"PYTHONPATH": str(FAKETORCH)})
    return subprocess.run(
        [sys.executable, "-c", text], cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def test_two_parts_of_one_kernel_are_two_bundles_and_an_error_is_the_cells_own(tmp_path: Path) -> None:
    text = f"""
import ongpu.guard.session  # whatever was imported before
from ongpu.notebook import guard
{TRAIN}
train(2)
with guard() as first:
    train(5)
print("OUTCOME", first.report.verdict.outcome, first.report.bundle)
try:
    with guard(evidence="second") as second:
        train(1)
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
except RuntimeError:
    print("SECOND", second.report.failure.cause, second.report.status)
try:
    with guard(evidence="second"):
        print("BEGUN")
except Exception as error:
    print("TAKEN", error)
"""
    ran = cells(text, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert f"OUTCOME refuted {tmp_path / 'ongpu_runs' / 'part'}" in ran.stdout
    assert "Verdict: refuted" in ran.stdout and "TAKEN" in ran.stdout and "BEGUN" not in ran.stdout
    assert "SECOND wheel-no-arch 1" in ran.stdout
    assert "Phase: run" in (tmp_path / "second" / "blocked.txt").read_text().replace("Blocked in phase", "Phase")
    assert "no kernel image" in (tmp_path / "second" / "training_log.txt").read_text()
    for name, end in (("ongpu_runs/part", "completed"), ("second", "failed")):
        assert ongpu(["evidence", "check", name], cwd=tmp_path).status == 0
        assert f'"end":"{end}"' in (tmp_path / name / "journal.jsonl").read_text("utf-8")


def test_a_part_answers_a_nonce(tmp_path: Path) -> None:
    nonce = "0123456789abcdef" * 4
    text = f"""
import random
from ongpu.notebook import guard
try:
    with guard(nonce="{nonce}"):
        print("BEGUN")
except Exception as error:
    print("TOO EARLY", error)
{TRAIN}
with guard(evidence="answered", nonce="{nonce}") as part:
    drawn = random.random()
    train(3)
print("SEEDED", random.Random(part.seed).random() == drawn)
"""
    ran = cells(text, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "TOO EARLY A nonce seeds the training" in ran.stdout and "BEGUN" not in ran.stdout
    assert "SEEDED True" in ran.stdout and not (tmp_path / "ongpu_runs").exists()
    asked = ["evidence", "check", "answered", "--nonce"]
    assert ongpu([*asked, nonce], cwd=tmp_path).status == 0
    assert ongpu([*asked, "f" * 64], cwd=tmp_path).status == 1


def test_import_ongpu_stays_light(tmp_path: Path) -> None:
    ran = cells("import sys, ongpu; print(sorted(m for m in sys.modules if m.startswith('ongpu')))", tmp_path)
    assert ran.stdout.strip() == "['ongpu']"
