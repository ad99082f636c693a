"""W5, the kernel trace, on a real GPU: it speaks for honest runs of every make, and gets in nobody's way.

Run as ``test_guard_gpu.py`` says. Where ``OUT`` is set, each test leaves there what was recorded, for the replays of
``tests/judge/test_judge_trace.py``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.guard import guard_programs
from tests.guard.guard_harness import PYTHON, Guarded, environment, prove, script
from tests.guard.test_guard_gpu import MODEL, load_beside, report

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
PROFILED = """
def kernels_of(profile):
    return sum(str(one.device_type).endswith("CUDA") for one in profile.events())
"""


def traced(folder: Path, text: str, **changes: Any) -> Guarded:
    """One program under guard with a trace of 3 steps; what was recorded is kept."""
    settings = {"baseline_s": 0.5, "trace_steps": 3, "cwd": folder, "log_path": folder / "log.txt", **changes}
    guarded = prove([PYTHON, script(folder, text)], **settings)
    keep(folder.name, guarded)
    return guarded


def keep(name: str, guarded: Guarded) -> None:
    out = os.environ.get("OUT")
    if out:
        rows = [{"kind": one.kind, "t_mono": one.t_mono, "data": one.data} for one in guarded.memory.observations]
        verdict = [f"{one.name} {one.state}: {one.reason}" for one in guarded.verdict.witnesses]
        Path(out, f"{name}.json").write_text(json.dumps({"verdict": verdict, "rows": rows}), encoding="utf-8")
        Path(out, f"{name}.digest.json").write_text(json.dumps(guarded.memory.hooks("trace"), indent=1), "utf-8")


def digest(guarded: Guarded) -> dict[str, Any]:
    """The one trace record of the one process."""
    (found,) = guarded.memory.hooks("trace")
    return dict(found)


def spoke(guarded: Guarded, *, level: str = "process") -> dict[str, Any]:
    """The run is proven and W5 confirms."""
    told = report(guarded)
    assert guarded.result.status == 0, told
    assert (guarded.verdict.outcome, guarded.verdict.level) == ("proven", level), told
    assert guarded.witness("W5").state == "confirmed", told
    found = digest(guarded)
    assert found["control"] is True and found["truncated"] is False, found
    assert len(found["steps"]) == 3 and found["unplaced"] == 0, found
    return found


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_plain_loop(tmp_path: Path) -> None:
    found = spoke(traced(tmp_path, MODEL + "train('cuda', width=4096, batch=4096, seconds=2.0)"))
    assert [one[0] for one in found["steps"]] == [6, 7, 8]
    assert len({one[1] for one in found["steps"]}) == 1, "each of these steps launches the same kernels"
    assert found["on_devices"][0]["busy_ns"] > 0.5e9 * (found["t_ended"] - found["t_began"])
    assert log(tmp_path) == "", "the profiler wrote to the program's output"


def test_short_run(tmp_path: Path) -> None:
    spoke(traced(tmp_path, MODEL + "train('cuda', steps=9, seconds=0)"))


def test_too_short_a_run(tmp_path: Path) -> None:
    guarded = traced(tmp_path, MODEL + "train('cuda', steps=7, seconds=0)")
    told = report(guarded)
    assert guarded.verdict.outcome == "proven", told
    assert guarded.witness("W5").state == "unavailable", told


def test_compiled(tmp_path: Path) -> None:
    found = spoke(traced(tmp_path, guard_programs.compiled("reduce-overhead")))
    assert found["graph_launches"] > 0, found


def test_graph_of_forward_and_backward(tmp_path: Path) -> None:
    """Recorded before the profiler came, replayed under it; the update is outside."""
    text = """
import torch, time
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)]).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
x = torch.randn(64, 1024, device="cuda")
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True); model(x).pow(2).mean().backward()
torch.cuda.current_stream().wait_stream(side)
optimizer.zero_grad(set_to_none=True)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    model(x).pow(2).mean().backward()
began = time.monotonic()
while time.monotonic() - began < 1.5:
    graph.replay()
    optimizer.step()
torch.cuda.synchronize()
"""
    found = spoke(traced(tmp_path, text))
    assert found["graph_launches"] >= 3, found
    assert min(one[1] for one in found["steps"]) > 16, "the kernels in the graph are counted, one by one"


def test_graph_of_the_whole_step(tmp_path: Path) -> None:
    """The hook sees no step any more: the replays are traced."""
    text = """
import torch, time
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)]).cuda()
optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
x = torch.randn(64, 1024, device="cuda")
def step():
    optimizer.zero_grad(set_to_none=True); model(x).pow(2).mean().backward(); optimizer.step()
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(6):
        step()
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    step()
began = time.monotonic()
while time.monotonic() - began < 1.5:
    graph.replay()
torch.cuda.synchronize()
"""
    found = spoke(traced(tmp_path, text))
    assert found["unit"] == "replay", found


def test_reference_training(tmp_path: Path) -> None:
    words = [
        "--output",
        str(tmp_path / "out"),
        "--dataset",
        "dev-reasoning-v2",
        "--device",
        "cuda",
        "--max_steps",
        "50",
    ]
    config = ["--config", "training/configs/submission_local.yaml"]
    command = [PYTHON, "training/run_train_torch.py", *config, *words]
    log_path = tmp_path / "log.txt"
    guarded = prove(command, baseline_s=0.5, trace_steps=3, cwd=ROOT, log_path=log_path)
    keep(tmp_path.name, guarded)
    spoke(guarded)
    assert "USDT" not in log_path.read_text() and "STAGE" not in log_path.read_text()


def test_trainer_of_transformers(tmp_path: Path) -> None:
    spoke(traced(tmp_path, guard_programs.trainer_of_transformers(steps=40)))


def test_lightning(tmp_path: Path) -> None:
    spoke(traced(tmp_path, guard_programs.lightning(epochs=1)))


# -- the program's own profiler --------------------------------------------------------------------------------------


def test_own_profiler_all_along(tmp_path: Path) -> None:
    text = (
        MODEL
        + PROFILED
        + """
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
    train('cuda', steps=30, seconds=0)
print("kernels", kernels_of(profile))
"""
    )
    guarded = traced(tmp_path, text)
    told = report(guarded) + log(tmp_path)
    assert guarded.verdict.outcome == "proven", told
    assert guarded.witness("W5").state == "unavailable", told
    assert "uses torch's profiler itself" in guarded.witness("W5").reason, told
    assert int(log(tmp_path).split()[-1]) > 100, told


def test_own_profiler_later(tmp_path: Path) -> None:
    text = (
        MODEL
        + PROFILED
        + """
train('cuda', steps=30, seconds=0)
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
    train('cuda', steps=30, seconds=0)
print("kernels", kernels_of(profile))
"""
    )
    guarded = traced(tmp_path, text)
    spoke(guarded)
    assert int(log(tmp_path).split()[-1]) > 100, "the program's own profiler saw nothing after ours"


def test_own_profiler_within_the_window(tmp_path: Path) -> None:
    text = (
        MODEL
        + PROFILED
        + """
model = torch.nn.Linear(1024, 1024).cuda()
optimizer = torch.optim.AdamW(model.parameters())
def steps(count):
    for _ in range(count):
        optimizer.zero_grad(); model(torch.randn(64, 1024, device="cuda")).pow(2).mean().backward(); optimizer.step()
steps(6)
schedule = torch.profiler.schedule(wait=0, warmup=1, active=4, repeat=1)
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], schedule=schedule) as profile:
    for _ in range(5):
        steps(5); profile.step()
print("kernels", kernels_of(profile))
import time; time.sleep(0.5)
"""
    )
    guarded = traced(tmp_path, text)
    told = report(guarded) + log(tmp_path)
    assert guarded.verdict.outcome == "proven", told
    assert guarded.witness("W5").state == "unavailable", told
    assert int(log(tmp_path).split()[-1]) > 100, told


# -- nothing to trace, or nothing good -------------------------------------------------------------------------------


def test_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    text = """
import jax, jax.numpy as jnp, time
assert jax.default_backend() == "gpu"
step = jax.jit(lambda w: w - 1e-3 * jax.grad(lambda v: (v @ v).sum())(w))
w = jnp.ones((4096, 4096)); began = time.monotonic()
while time.monotonic() - began < 2: w = step(w)
w.block_until_ready()
"""
    settings = environment(XLA_PYTHON_CLIENT_PREALLOCATE="false")
    guarded = traced(tmp_path, text, environment=settings)
    told = report(guarded)
    assert guarded.verdict.outcome == "unknown", told
    assert guarded.witness("W5").state == "unavailable", told


def test_decoy_cpu_training_beside_another_load(tmp_path: Path) -> None:
    with load_beside():
        guarded = traced(tmp_path, MODEL + "torch.zeros(1, device='cuda')\ntrain('cpu', width=256, seconds=1.5)")
    told = report(guarded)
    assert guarded.verdict.outcome == "refuted", told
    assert guarded.witness("W5").state == "unavailable", told


IDLE_TENSORS = """
import torch, time
class Pretending(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})
    def step(self):
        pass
weights = [torch.nn.Parameter(torch.zeros(8192, 8192, device="cuda")) for _ in range(4)]
for weight in weights:
    weight.grad = torch.zeros_like(weight)
optimizer = Pretending(weights)
model = torch.nn.Linear(512, 512)
began = time.monotonic()
while time.monotonic() - began < 3:
    model.zero_grad(); model(torch.randn(64, 512)).pow(2).mean().backward()
    with torch.no_grad():
        for one in model.parameters(): one -= 1e-3 * one.grad
    optimizer.step()
"""


def test_decoy_tensors_that_idle_on_the_gpu(tmp_path: Path) -> None:
    """Every tensor W1 asks about lies on the GPU and the driver agrees; the work is done by the CPU."""
    with load_beside():
        guarded = traced(tmp_path, IDLE_TENSORS)
    told = report(guarded)
    assert guarded.witness("W1").state == "confirmed", told
    assert guarded.witness("W2").state == "confirmed", told
    assert guarded.witness("W5").state == "contradicted", told
    assert guarded.verdict.outcome == "refuted", told


# -- platforms that hide processes -----------------------------------------------------------------------------------


def hiding(*what: str) -> dict[str, Any]:
    return {"sampler_command": (sys.executable, str(ROOT / "tests/guard/guard_hidden_sampler.py"), "1.0", *what)}


WORK = MODEL + "train('cuda', width=4096, batch=4096, seconds=3.0)"


def test_processes_are_hidden(tmp_path: Path) -> None:
    guarded = traced(tmp_path, WORK, **hiding("processes"))
    spoke(guarded, level="device")
    assert guarded.witness("W2").state == "unavailable"
    assert guarded.witness("W2d").state == "confirmed"


def test_processes_and_memory_are_hidden(tmp_path: Path) -> None:
    guarded = traced(tmp_path, WORK, **hiding("processes", "memory"))
    spoke(guarded, level="device")
    assert guarded.witness("W2d").state == "unavailable"
    assert guarded.witness("W4").state == "confirmed"
    assert "W4+W5 (device-level)" in guarded.verdict.claims[0].reason


def test_nothing_was_traced_where_both_are_hidden(tmp_path: Path) -> None:
    guarded = traced(tmp_path, WORK, trace_steps=None, **hiding("processes", "memory"))
    assert guarded.verdict.outcome == "unknown", report(guarded)
