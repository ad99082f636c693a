"""W5, the kernel trace: what it confirms, what it contradicts, and where it stands in for what a platform hides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ongpu.domain.judge import judge
from ongpu.domain.verdict import Outcome, Verdict, WitnessState
from tests.judge.judge_journals import GPU, MIB, OTHER_GPU, Guarded, Process, Run, Trace, cpu_process

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
