"""The guard around a part of this process, as a notebook uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ongpu.domain.judge import judge
from ongpu.guard.here import guard_here
from tests.guard.guard_harness import PYTHON, Memory, prove, script, settings

pytestmark = pytest.mark.process
torch = pytest.importorskip("torch")


def begun() -> Memory:
    memory = Memory()
    start: dict[str, object] = {"run_id": "cell", "profile": "run", "argv": [], "expect_gpu": None, "simulated": False}
    memory.record("run.start", start)
    return memory


def train(steps: int) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def test_a_part_on_the_cpu_is_refuted() -> None:
    memory = begun()
    train(3)  # before the part: not its matter
    with guard_here(settings=settings(), recorder=memory):
        train(7)
    memory.record("run.end", {"end": "completed"})
    assert memory.hooks("end")[0]["steps"] == 7
    verdict = judge(memory.observations)
    assert verdict.outcome == "refuted", verdict.reason
    train(1)
    assert memory.hooks("end")[0]["steps"] == 7


def test_an_exception_passes_and_is_recorded() -> None:
    memory = begun()
    with pytest.raises(ZeroDivisionError), guard_here(settings=settings(), recorder=memory):
        train(1)
        _ = 1 / 0
    assert memory.of("child.exit")[0]["status"] == 1
    assert memory.of("guard.end")


def test_torch_may_come_later(tmp_path: Path) -> None:
    text = """
from tests.guard.guard_harness import Memory, settings
from ongpu.guard.here import guard_here
memory = Memory()
with guard_here(settings=settings(), recorder=memory):
    import torch
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4)).sum().backward(); optimizer.step()
print([one["steps"] for one in memory.hooks("end")])
"""
    import io
    import sys

    console = io.BytesIO()
    prove([PYTHON, script(tmp_path, f"import sys; sys.path[:0] = {sys.path!r}\n" + text)], console=console)
    assert console.getvalue() == b"[1]\n"
