"""W5, the kernel trace: what it confirms, what it contradicts, and where it stands in for what a platform hides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.judge import JudgeError, judge
from ongpu.domain.verdict import Outcome, Verdict, WitnessState
from tests.judge.judge_journals import GPU, MIB, OTHER_GPU, Guarded, Process, Row, Run, Trace, cpu_process, number

PROVEN, REFUTED, UNKNOWN = Outcome.PROVEN, Outcome.REFUTED, Outcome.UNKNOWN
CONFIRMED, CONTRADICTED = WitnessState.CONFIRMED, WitnessState.CONTRADICTED
UNAVAILABLE, ERROR = WitnessState.UNAVAILABLE, WitnessState.ERROR


def traced(trace: Trace | None = None, *, process: dict[str, Any] | None = None, **changes: Any) -> Verdict:
    """The verdict over one process with that trace."""
    told = Process(**{"trace": trace or Trace(), **(process or {})})
    guarded = Guarded(**{"processes": [told], "trace_steps": 3, **changes})
    return judge(Run(profile="run", expect_gpu=None, guarded=guarded).observations())


def state(verdict: Verdict, name: str = "W5") -> WitnessState:
    return next(one.state for one in verdict.witnesses if one.name == name)


def why(verdict: Verdict, name: str = "W5") -> str:
    return next(one.reason for one in verdict.witnesses if one.name == name)


def test_kernels_in_every_traced_step_confirm() -> None:
    verdict = traced()
    assert (verdict.outcome, verdict.level, state(verdict)) == (PROVEN, "process", CONFIRMED)
    assert f"120 kernels in steps 6 to 8 on {GPU}, busy for 50% of these 300 ms" in why(verdict)
    assert ". W5: " in verdict.claims[0].reason


def test_where_no_trace_was_asked_for_nobody_misses_it() -> None:
    verdict = judge(Run().observations())
    assert verdict.outcome is PROVEN
    assert "W5" not in {one.name for one in verdict.witnesses}


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (Trace(kernels=(0, 0, 0), busy_ns=0), "no kernel"),
        (Trace(uuid=OTHER_GPU), "ran on " + OTHER_GPU),
        (Trace(uuid=OTHER_GPU, control=False), "ran on " + OTHER_GPU),
    ],
    ids=["no-kernel", "another-gpu", "another-gpu-without-control"],
)
def test_what_contradicts_refutes_although_w1_and_w2_confirm(trace: Trace, words: str) -> None:
    verdict = traced(trace)
    assert (state(verdict, "W1"), state(verdict, "W2"), state(verdict)) == (CONFIRMED, CONFIRMED, CONTRADICTED)
    assert verdict.outcome is REFUTED
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("trace", "expected", "words"),
    [
        (Trace(state="unavailable"), UNAVAILABLE, "because"),
        (Trace(state="error"), ERROR, "because"),
        (Trace(kernels=(0, 0, 0), busy_ns=0, control=False), ERROR, "nothing it could be believed by"),
        (Trace(kernels=(0, 0, 0), busy_ns=0, graph_launches=3), UNAVAILABLE, "kernels of graphs were not recorded"),
        (Trace(kernels=(40, 0, 40)), UNAVAILABLE, "to step 7"),
        (Trace(uuid=None), UNAVAILABLE, "named no UUID"),
        (Trace(kernels=(40,)), ERROR, "fewer than 2"),
        (Trace(busy_ns=400_000_000), ERROR, "busy for longer than its window"),
        (Trace(seconds=-0.1), ERROR, "window that cannot be"),
        (Trace(first=39), ERROR, "steps that were not made"),
        (Trace(first=0, unit="replay"), CONFIRMED, "replays 0 to 2"),
    ],
)
def test_what_else_it_says(trace: Trace, expected: WitnessState, words: str) -> None:
    verdict = traced(trace)
    assert (state(verdict), words in why(verdict)) == (expected, True), why(verdict)
    assert verdict.outcome is (REFUTED if expected is CONTRADICTED else PROVEN), "W1 and W2 stand by themselves"


def test_a_trace_that_was_asked_for_and_never_written_confirms_nothing() -> None:
    verdict = judge(Run(guarded=Guarded(trace_steps=3)).observations())
    assert (verdict.outcome, state(verdict)) == (PROVEN, UNAVAILABLE)
    assert "no kernel traces" in why(verdict)


def test_a_process_on_the_cpu_names_no_gpu() -> None:
    guarded = Guarded(processes=[cpu_process(trace=Trace(uuid=OTHER_GPU))], trace_steps=3)
    verdict = judge(Run(guarded=guarded).observations())
    assert (verdict.outcome, state(verdict)) == (REFUTED, UNAVAILABLE)
    assert verdict.reason.startswith("trained-on-cuda is refuted: W1")


def test_the_worst_rank_decides() -> None:
    ranks = [Process(pid=4242 + n, rank=n, world_size=2, trace=Trace()) for n in range(2)]
    both = judge(Run(guarded=Guarded(processes=ranks, trace_steps=3)).observations())
    assert state(both) is CONFIRMED and "rank 0" in why(both) and "rank 1" in why(both)
    ranks[1] = replace(ranks[1], trace=Trace(kernels=(0, 0, 0), busy_ns=0))
    verdict = judge(Run(guarded=Guarded(processes=ranks, trace_steps=3)).observations())
    assert (verdict.outcome, state(verdict)) == (REFUTED, CONTRADICTED)
    assert "rank 1" in why(verdict)


HIDDEN: dict[str, Any] = {"hidden": True, "memory_hidden": True}


def test_energy_and_kernels_stand_in_where_neither_processes_nor_memory_are_told() -> None:
    verdict = traced(**HIDDEN)
    assert (verdict.outcome, verdict.level) == (PROVEN, "device"), verdict.reason
    assert "W4+W5 (device-level)" in verdict.claims[0].reason
    assert "nobody outside saw this process itself" in verdict.claims[0].reason
    assert (state(verdict, "W2"), state(verdict, "W2d")) == (UNAVAILABLE, UNAVAILABLE)


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_steps": None, "process": {"trace": None}},
        {"process": {"trace": None}},
        {"trace": Trace(state="unavailable")},
        {"trace": Trace(state="error")},
        {"trace": Trace(kernels=(40, 0, 40))},
        {"busy_w": 91.0},
        {"sampler_error": "the sampler ended with signal 11"},
    ],
    ids=["not-asked", "not-written", "unavailable", "error", "a-step-without", "no-energy", "no-sampler"],
)
def test_one_of_the_two_is_not_enough(changes: dict[str, Any]) -> None:
    assert traced(**{**HIDDEN, **changes}).outcome is UNKNOWN


def test_without_kernels_it_is_refuted_there_too() -> None:
    assert traced(Trace(kernels=(0, 0, 0), busy_ns=0), **HIDDEN).outcome is REFUTED


def test_they_never_outvote_memory_that_can_be_read() -> None:
    moves = traced(hidden=True)
    assert (moves.outcome, moves.level) == (PROVEN, "device")
    assert "W2d (device-level)" in moves.claims[0].reason
    still = traced(hidden=True, still=True, baseline_used=5000 * MIB)
    assert (state(still), state(still, "W4"), state(still, "W2d")) == (CONFIRMED, CONFIRMED, UNAVAILABLE)
    assert still.outcome is UNKNOWN


def test_traced_steps_are_left_out_of_the_comparison_with_the_cpu() -> None:
    slow = Guarded(role="cpu-comparison", processes=[cpu_process(steps=12, step_s=0.9, pid=5000)])

    def answer(trace: Trace | None) -> str:
        guarded = Guarded(processes=[Process(steps=10, trace=trace)], trace_steps=3)
        verdict = judge(Run(compare_cpu=True, comparison=slow, guarded=guarded).observations())
        return next(one.reason for one in verdict.claims if one.id == "faster-than-cpu")

    assert "ratio 9.00" in answer(None)
    assert "too few steps" in answer(Trace()), "of the seven after the warm-up, four are slowed by the trace"


# -- as recorded on H100s by tests/guard/test_guard_trace_gpu.py and test_guard_two_gpus.py ---------------------------

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings" / "trace"


def recorded(name: str) -> list[Row]:
    lines = (RECORDINGS / f"{name}.jsonl").read_text().splitlines()[1:]
    return [(row["kind"], row["data"]) for row in map(json.loads, lines)]


def change_trace(rows: list[Row], change: Callable[[dict[str, Any]], object]) -> Verdict:
    for kind, data in rows:
        if kind == "hook" and data["record"] == "trace":
            change(data)
    return judge(number(rows))


def without_memory(rows: list[Row]) -> list[Row]:
    """As a platform would tell it that hides the memory of its devices too."""
    for kind, data in rows:
        if kind in {"baseline", "nvml.sample"}:
            for device in data["devices"]:
                device["memory_used_bytes"] = None
    return rows


@pytest.mark.parametrize(
    ("name", "outcome", "level", "w5", "words"),
    [
        ("plain_loop", PROVEN, "process", CONFIRMED, "162 kernels in steps 6 to 8"),
        ("reference", PROVEN, "process", CONFIRMED, "1557 kernels in steps 6 to 8"),
        ("graph_replays", PROVEN, "process", CONFIRMED, "324 kernels in replays 2 to 4"),
        ("two_ranks", PROVEN, "process", CONFIRMED, "rank 0 (process 3112): 153 kernels"),
        ("two_ranks", PROVEN, "process", CONFIRMED, "rank 1 (process 3113): 153 kernels"),
        ("kernels_elsewhere", REFUTED, None, CONTRADICTED, "not on GPU-00000000"),
        ("hidden", PROVEN, "device", CONFIRMED, "busy for 95% of these 101 ms"),
        ("idle_tensors", REFUTED, None, CONTRADICTED, "no kernel of process 1247 ran on GPU-"),
    ],
)
def test_recorded(name: str, outcome: Outcome, level: str | None, w5: WitnessState, words: str) -> None:
    verdict = judge(number(recorded(name)))
    assert (verdict.outcome, verdict.level, state(verdict)) == (outcome, level, w5), verdict.reason
    assert words in why(verdict)
    assert (state(verdict, "W1"), state(verdict, "W2")) == (CONFIRMED, UNAVAILABLE if name == "hidden" else CONFIRMED)


@pytest.mark.parametrize("name", ["plain_loop", "graph_replays", "hidden", "idle_tensors", "two_ranks"])
def test_no_line_of_a_recorded_journal_can_be_left_out(name: str) -> None:
    rows = recorded(name)
    del rows[-1][1]["observations"]  # whoever leaves out a line would count anew
    proven = judge(number(rows)).outcome is PROVEN
    assert proven is (name != "idle_tensors")
    for gone in range(1, len(rows)):
        try:
            outcome = judge(number(rows[:gone] + rows[gone + 1 :])).outcome
        except JudgeError:
            continue
        assert outcome is not PROVEN, rows[gone]


def test_energy_and_kernels_as_recorded() -> None:
    verdict = judge(number(without_memory(recorded("hidden"))))
    assert (verdict.outcome, verdict.level) == (PROVEN, "device"), verdict.reason
    assert "W4+W5 (device-level)" in verdict.claims[0].reason
    for missing in ("energy", "trace"):
        rows = without_memory(recorded("hidden"))
        for kind, data in rows:
            if kind == "energy" and missing == "energy":
                data["devices"] = []
            elif kind == "child.start" and missing == "trace":
                data["trace_steps"] = None
        assert judge(number(rows)).outcome is UNKNOWN, missing


def test_the_kernels_of_a_recorded_run_on_another_gpu() -> None:
    def move(trace: dict[str, Any]) -> None:
        trace["on_devices"][0]["uuid"] = OTHER_GPU

    verdict = change_trace(recorded("plain_loop"), move)
    assert (verdict.outcome, state(verdict)) == (REFUTED, CONTRADICTED)


def test_a_forged_trace_of_idle_tensors_must_add_up() -> None:
    """Kernels written into the trace without a word on the steps, or the other way round."""
    device = {"device": "cuda:0", "kernels": 30, "busy_ns": 9_000_000}
    rows = recorded("idle_tensors")
    uuid = next(data["devices"][0]["uuid"] for kind, data in rows if kind == "baseline")
    verdict = change_trace(rows, lambda trace: trace.update(on_devices=[{**device, "uuid": uuid}]))
    assert (state(verdict), "counts its kernels two ways" in why(verdict)) == (ERROR, True)
