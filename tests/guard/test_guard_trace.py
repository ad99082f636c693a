"""The kernel trace (W5) in a torch of a few lines with a pretended kineto: when it traces, and how it stands back.

What the real kineto answers is ``test_guard_trace_gpu.py``'s matter.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.guard.guard_harness import PYTHON, environment, script

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
HOOK = HERE.parents[1] / "src" / "ongpu" / "guard" / "hook"

BEGIN = """
import time, torch, ongpu_witness
ongpu_witness.SEEN_S = 0.0
from torch.autograd import profiler
from torch.autograd.profiler import launch
torch.cuda.state["initialized"] = True
weight = torch.Tensor(4096, "cuda:0", requires_grad=True)
weight.grad = torch.Tensor(4096, "cuda:0")
optimizer = torch.optim.Optimizer([weight])
def steps(count, *, kernels=3, index=0):
    for _ in range(count):
        for number in range(kernels):
            launch("void gemm%d<float>()" % number, index)
        time.sleep(0.001)
        optimizer.step()
"""


def traces(folder: Path, text: str, *, wanted: int | None = 3) -> list[dict[str, Any]]:
    """The trace records of a program; the other records must be whole and without an error."""
    records = folder / "records"
    records.mkdir()
    paths = f"{HOOK}:{HERE / 'faketorch'}"
    env = environment(PYTHONPATH=paths, ONGPU_HOOK_DIR=str(records))
    if wanted is not None:
        env["ONGPU_HOOK_TRACE"] = str(wanted)
    program = script(folder, BEGIN + text)
    done = subprocess.run([PYTHON, program], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = [json.loads(line) for one in records.glob("*.jsonl") for line in one.read_text().splitlines()]
    assert not [one for one in rows if one["record"] == "error"], rows
    assert rows[-1]["record"] == "end" and rows[-1]["records"] == len(rows)
    return [one for one in rows if one["record"] == "trace"]


def test_three_steps_after_the_warm_up(tmp_path: Path) -> None:
    (found,) = traces(tmp_path, "steps(20)")
    assert (found["state"], found["unit"], found["wanted"]) == ("traced", "step", 3)
    assert [one[:2] for one in found["steps"]] == [[6, 3], [7, 3], [8, 3]]
    assert (found["unplaced"], found["control"], found["truncated"]) == (0, True, False)
    assert (
        found["on_devices"]
        == [{"device": "cuda:0", "uuid": "GPU-99999999-2222-4333-8444-555555555555", "kernels": 9, "busy_ns": 180_000}]
        or found["on_devices"][0]["busy_ns"] < 180_000
    )  # kernels that overlap count once
    assert found["launches"] == 9 + 1 and found["names"] == 3
    assert {one["count"] for one in found["kernels"]} == {3}
    assert 0 < found["t_ended"] - found["t_began"] < 5


def test_as_many_steps_as_fit_in_the_window(tmp_path: Path) -> None:
    text = """
import ongpu_trace
at = iter(range(1000))
ongpu_trace.time = type("Clock", (), {
    "monotonic": lambda: 4.0 * next(at) + 1, "perf_counter": time.perf_counter, "time_ns": time.time_ns})
steps(20)
"""
    (found,) = traces(tmp_path, text)
    assert (found["wanted"], [one[0] for one in found["steps"]]) == (3, [6, 7])


def test_nothing_is_traced_unasked(tmp_path: Path) -> None:
    assert traces(tmp_path, "steps(20); assert profiler.prepared == []", wanted=None) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps(7)", "the process ended within the 3 steps to be traced"),
        ("steps(4)", "4 steps are too few"),
        ("weight.device = weight.grad.device = 'cpu'; steps(20)", "no step on CUDA was seen"),
        ("profiler.how['kernels'] = 'no-cupti'; steps(20)", "without CUPTI"),
        ("profiler.kineto_available = lambda: False; steps(20)", "without its profiler"),
        ("with profiler.profile(use_kineto=True): steps(20)", "uses torch's profiler itself"),
        ("with profiler.profile(use_kineto=True): pass\nsteps(20)", "uses torch's profiler itself"),
        ("import ongpu_trace; ongpu_trace.WINDOW_S = 0.0015; steps(20)", "s is too long to trace 2"),
        ("steps(6)\nwith profiler.profile(use_kineto=True): steps(20)", "uses torch's profiler itself"),
    ],
)
def test_why_there_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (found,) = traces(tmp_path, text)
    assert found["state"] == "unavailable" and reason in found["reason"], found


def test_the_programs_own_profiler_has_all_its_kernels(tmp_path: Path) -> None:
    text = """
steps(6)  # within the window
with profiler.profile(use_kineto=True) as mine: steps(4)
assert len(mine.kineto_results.events()) == 4 * 3 * 2
with profiler.profile(use_kineto=True) as again: steps(4)
assert len(again.kineto_results.events()) == 4 * 3 * 2
"""
    assert len(traces(tmp_path, text)) == 1


def test_it_leaves_no_patch_behind(tmp_path: Path) -> None:
    text = """
assert profiler._prepare_profiler.__name__ == "theirs"
steps(20)
assert profiler._prepare_profiler.__name__ == "_prepare_profiler"
assert profiler._enable_profiler.__name__ == "_enable_profiler"
assert torch.cuda.CUDAGraph.replay.__module__ == "torch.cuda.graphs"
"""
    assert len(traces(tmp_path, text)) == 1


def test_a_broken_profiler_is_an_error_of_the_trace_alone(tmp_path: Path) -> None:
    (found,) = traces(tmp_path, "profiler.how['kernels'] = 'broken'; steps(20)")
    assert (found["state"], found["code"], found["reason"]) == (
        "error",
        "RuntimeError",
        "CUPTI_ERROR_NOT_INITIALIZED",
    )


def test_a_profiler_that_records_nothing_has_no_control(tmp_path: Path) -> None:
    (found,) = traces(tmp_path, "profiler.how['kernels'] = 'none'; steps(20)")
    assert (found["state"], found["control"], found["on_devices"]) == ("traced", False, [])


def test_steps_without_kernels_have_the_control_alone(tmp_path: Path) -> None:
    (found,) = traces(tmp_path, "steps(20, kernels=0)")
    assert (found["control"], found["on_devices"], found["steps"][0][:2]) == (True, [], [6, 0])


def test_kernels_on_another_gpu_are_told(tmp_path: Path) -> None:
    (found,) = traces(tmp_path, "steps(20, index=1)")
    assert [one["device"] for one in found["on_devices"]] == ["cuda:1"]


RECORDED = """
torch.cuda.state["capturing"] = True
optimizer.step()
torch.cuda.state["capturing"] = False
graph = torch.cuda.CUDAGraph()
for _ in range(10): graph.replay()
"""


@pytest.mark.parametrize("before", [2, 6, 7], ids=["before", "just-begun", "in-the-window"])
def test_a_recorded_step_is_traced_in_its_replays(tmp_path: Path, before: int) -> None:
    (found,) = traces(tmp_path, f"steps({before})" + RECORDED)
    assert (found["state"], found["unit"]) == ("traced", "replay"), found
    assert [one[1] for one in found["steps"]] == [2, 2, 2]
    assert found["graph_launches"] == 3


def test_a_forked_child_traces_its_own_steps(tmp_path: Path) -> None:
    text = """
import os
steps(6)  # within the window
child = os.fork()
if child == 0:
    profiler.running.clear()
    steps(20)
    import atexit; atexit._run_exitfuncs(); os._exit(0)
os.waitpid(child, 0)
steps(10)
"""
    records = tmp_path / "records"
    records.mkdir()
    env = environment(PYTHONPATH=f"{HOOK}:{HERE / 'faketorch'}", ONGPU_HOOK_DIR=str(records), ONGPU_HOOK_TRACE="3")
    subprocess.run([PYTHON, script(tmp_path, BEGIN + text)], env=env, check=True)
    told = [
        [row for row in map(json.loads, one.read_text().splitlines()) if row["record"] == "trace"]
        for one in sorted(records.glob("*.jsonl"))
    ]
    assert [[one["state"] for one in rows] for rows in told] == [["traced"], ["traced"]]


def test_a_step_in_another_thread_waits_for_its_own(tmp_path: Path) -> None:
    text = """
import threading
steps(6)
other = threading.Thread(target=steps, args=(5,)); other.start(); other.join()
steps(3)
"""
    (found,) = traces(tmp_path, text)
    assert found["state"] == "traced"
