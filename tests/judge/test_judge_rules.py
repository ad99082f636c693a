"""The judge: what proves, what refutes, what leaves it unknown."""

from __future__ import annotations

import dataclasses

import pytest

from ongpu.domain.judge import JudgeError, judge
from ongpu.domain.ranks import ranks
from ongpu.domain.verdict import Cause, Claim, Outcome, Verdict, Witness, WitnessState
from tests.judge.judge_journals import GPU, MIB, OTHER_GPU, Guarded, Process, Run, cpu_process

PROVEN, REFUTED, UNKNOWN = Outcome.PROVEN, Outcome.REFUTED, Outcome.UNKNOWN


def claim(verdict: Verdict, name: str) -> Claim:
    return next(one for one in verdict.claims if one.id == name)


def witness(verdict: Verdict, name: str) -> Witness:
    return next(one for one in verdict.witnesses if one.name == name)


def test_an_honest_run_is_proven_in_all_six() -> None:
    verdict = judge(Run().observations())
    assert verdict.outcome is PROVEN, verdict.reason
    assert [one.id for one in verdict.claims if one.required] == [
        "cuda-available",
        "expected-gpu",
        "trained-on-cuda",
        "memory-allocated",
        "evidence-saved",
        "no-silent-cpu",
    ]
    assert all(one.outcome is PROVEN and one.observations for one in verdict.claims if one.required)
    assert verdict.level == "process"
    assert verdict.cause is Cause.HEALTHY
    assert {one.name: one.state for one in verdict.witnesses} == dict.fromkeys(
        ("W1", "W2", "W4"), WitnessState.CONFIRMED
    )


def test_cpu_training_is_refuted_beside_a_busy_gpu() -> None:
    guarded = Guarded(processes=[cpu_process()], foreign={999: 30000 * MIB})
    verdict = judge(Run(guarded=guarded).observations())
    assert verdict.outcome is REFUTED
    assert verdict.cause is Cause.SILENT_CPU
    assert claim(verdict, "trained-on-cuda").outcome is REFUTED
    assert "parameters on cpu" in claim(verdict, "no-silent-cpu").reason


@pytest.mark.parametrize(
    "process",
    [
        Process(cpu_from_step=6),
        Process(state={"cpu": 800 * MIB}),
        Process(gradients={"cuda:0": 399 * MIB, "cpu": MIB}),
        Process(parameters={"cuda:0": 399 * MIB, "cpu": MIB}),
    ],
    ids=["warm-up-only", "optimizer-on-cpu", "one-gradient-on-cpu", "one-parameter-on-cpu"],
)
def test_part_of_the_work_elsewhere_is_refuted(process: Process) -> None:
    verdict = judge(Run(guarded=Guarded(processes=[process])).observations())
    assert claim(verdict, "no-silent-cpu").outcome is REFUTED
    assert witness(verdict, "W1").state is WitnessState.CONTRADICTED


def test_a_model_moved_to_the_cpu_after_its_last_step_trained_where_its_steps_were() -> None:
    # Lightning does so in its teardown: refuted on a real H100 before this rule, though every step was on CUDA.
    verdict = judge(Run(guarded=Guarded(processes=[Process(at_exit="cpu")])).observations())
    assert verdict.outcome is PROVEN, verdict.reason
    moved_earlier = Process(at_exit="cpu", cpu_from_step=40)
    assert judge(Run(guarded=Guarded(processes=[moved_earlier])).observations()).outcome is REFUTED


def test_the_worst_rank_decides() -> None:
    ranks = [Process(pid=4242 + n, rank=n, world_size=2) for n in range(2)]
    assert judge(Run(guarded=Guarded(processes=ranks)).observations()).outcome is PROVEN
    ranks[1] = cpu_process(pid=4243, rank=1, world_size=2)
    verdict = judge(Run(guarded=Guarded(processes=ranks)).observations())
    assert verdict.outcome is REFUTED
    assert "rank 1" in witness(verdict, "W1").reason


def test_a_silent_rank_leaves_it_unknown() -> None:
    ranks = [Process(rank=0, world_size=2)]
    verdict = judge(Run(guarded=Guarded(processes=ranks)).observations())
    assert verdict.outcome is UNKNOWN
    assert "rank 1 of 2 said nothing" in verdict.reason


@pytest.mark.parametrize("status", [1, 3, 137])
def test_a_failed_child_is_never_proven(status: int) -> None:
    verdict = judge(Run(guarded=Guarded(status=status)).observations())
    assert verdict.outcome is UNKNOWN
    assert f"status {status}" in claim(verdict, "trained-on-cuda").reason


def test_a_rehearsal_proves_nothing() -> None:
    verdict = judge(Run(simulated=True).observations())
    assert verdict.outcome is UNKNOWN and verdict.simulated
    assert all(one.outcome is UNKNOWN and "rehearsed" in one.reason for one in verdict.claims)


def test_the_wrong_gpu_refutes_that_item_alone() -> None:
    verdict = judge(Run(expect_gpu="RTX 5090").observations())
    assert [one.id for one in verdict.claims if one.outcome is REFUTED] == ["expected-gpu"]
    assert verdict.outcome is REFUTED


def test_wrong_gpu_of_two() -> None:
    guarded = Guarded(processes=[Process(uuid=OTHER_GPU)], gpus=(GPU, OTHER_GPU))
    verdict = judge(Run(expect_gpu=None, guarded=guarded).observations())
    assert claim(verdict, "expected-gpu").outcome is UNKNOWN  # the probe saw only the other one


def test_no_torch_leaves_training_unknown_in_those_words() -> None:
    guarded = Guarded(processes=[], used={4242: 5000 * MIB})
    verdict = judge(Run(profile="run", expect_gpu=None, guarded=guarded).observations())
    assert verdict.outcome is UNKNOWN
    assert "whether it trained stays unknown" in claim(verdict, "trained-on-gpu").reason


def test_hidden_processes_are_judged_at_the_device() -> None:
    verdict = judge(Run(guarded=Guarded(hidden=True)).observations())
    assert verdict.outcome is PROVEN and verdict.level == "device"
    assert witness(verdict, "W2").state is WitnessState.UNAVAILABLE
    assert witness(verdict, "W2d").state is WitnessState.CONFIRMED


def test_a_readable_list_without_our_process_is_no_hidden_list() -> None:
    guarded = Guarded(listed=False, foreign={77: 4000 * MIB})
    verdict = judge(Run(guarded=guarded).observations())
    assert verdict.outcome is UNKNOWN
    assert "never lists" in witness(verdict, "W2").reason


def test_forged_records_against_the_driver() -> None:
    guarded = Guarded(used={4242: 600 * MIB}, baseline_used=0)
    verdict = judge(Run(guarded=guarded).observations())
    assert witness(verdict, "W2").state is WitnessState.CONTRADICTED
    assert verdict.outcome is REFUTED


def test_memory_that_torch_does_not_speak_for_confirms_nothing() -> None:
    verdict = judge(Run(guarded=Guarded(used={4242: 40000 * MIB})).observations())
    assert witness(verdict, "W2").state is WitnessState.UNAVAILABLE
    assert verdict.outcome is UNKNOWN


def test_a_pid_of_another_start_time_is_another_process() -> None:
    verdict = judge(Run(guarded=Guarded(tree=[(4242, 3.0)])).observations())
    assert "not seen in the command's process tree" in witness(verdict, "W2").reason
    assert verdict.outcome is UNKNOWN


def test_a_dead_sampler_is_an_error_not_a_proof() -> None:
    verdict = judge(Run(guarded=Guarded(sampler_error="the sampler ended with signal 11")).observations())
    assert witness(verdict, "W2").state is WitnessState.ERROR
    assert verdict.outcome is UNKNOWN


def test_a_driver_that_hung_confirms_nothing_whatever_it_said_before() -> None:
    honest = Run().observations()
    at = next(place for place, one in enumerate(honest) if one.kind == "sampler.end")
    last, rest = honest[at], honest[at + 1 :]
    told = {"uuid": GPU, "what": "processes", "code": "timeout", "reason": "it did not come back within 5 s"}
    hung = dataclasses.replace(last, kind="nvml.error", data={**last.data, **told})
    number = last.data["n"]
    assert isinstance(number, int)
    later = [dataclasses.replace(last, data={**last.data, "n": number + 1}), *rest]
    journal = []
    for seq, one in enumerate([*honest[:at], hung, *later]):
        counts = {"sampler_lines": number + 2} if one.kind == "guard.end" else {}
        counts = {"observations": seq} if one.kind == "run.end" else counts
        journal.append(dataclasses.replace(one, seq=seq, data={**one.data, **counts}))
    assert judge(honest).outcome is PROVEN
    verdict = judge(journal)
    assert witness(verdict, "W2").state is WitnessState.ERROR and "timeout" in witness(verdict, "W2").reason
    assert verdict.outcome is UNKNOWN


def test_no_step_is_no_training() -> None:
    verdict = judge(Run(guarded=Guarded(processes=[Process(steps=0, sampled=())])).observations())
    assert verdict.outcome is UNKNOWN
    assert "none of 1 optimizers made a step" in witness(verdict, "W1").reason


def test_a_process_without_its_last_word_confirms_nothing() -> None:
    verdict = judge(Run(guarded=Guarded(processes=[Process(ends=False)])).observations())
    assert witness(verdict, "W1").state is WitnessState.UNAVAILABLE


def test_a_warning_about_the_capability_refutes_cuda_available() -> None:
    process = Process(warnings=("GPU with CUDA capability sm_120 is not compatible with the current PyTorch",))
    verdict = judge(Run(guarded=Guarded(processes=[process])).observations())
    assert claim(verdict, "cuda-available").outcome is REFUTED
    assert verdict.cause is Cause.WHEEL_NO_ARCH


def test_rocm_is_not_nvidia() -> None:
    assert judge(Run(guarded=Guarded(processes=[Process(hip="6.4")])).observations()).outcome is UNKNOWN


def test_the_cpu_comparison_decides_where_it_was_asked_for() -> None:
    slow = Guarded(role="cpu-comparison", processes=[cpu_process(steps=12, step_s=0.9)])
    verdict = judge(Run(compare_cpu=True, comparison=slow).observations())
    faster = claim(verdict, "faster-than-cpu")
    assert faster.outcome is PROVEN and faster.required
    assert "100.00 ms on the GPU, 900.00 ms on the CPU: ratio 9.00" in faster.reason
    near = Guarded(role="cpu-comparison", processes=[cpu_process(steps=12, step_s=0.19)])
    assert claim(judge(Run(compare_cpu=True, comparison=near).observations()), "faster-than-cpu").outcome is REFUTED
    short = Guarded(role="cpu-comparison", processes=[cpu_process(steps=5, step_s=0.9)])
    assert claim(judge(Run(compare_cpu=True, comparison=short).observations()), "faster-than-cpu").outcome is UNKNOWN


def test_evidence_must_be_listed() -> None:
    verdict = judge(Run(files=("env_info.txt", "training_log.txt")).observations())
    assert claim(verdict, "evidence-saved").outcome is UNKNOWN
    assert "nvidia_smi.txt" in claim(verdict, "evidence-saved").reason


@pytest.mark.parametrize("end", ["failed", "interrupted", "blocked", None])
def test_a_run_that_did_not_complete_proves_nothing(end: str | None) -> None:
    verdict = judge(Run(end=end).observations())
    assert not any(one.outcome is PROVEN for one in verdict.claims)


def test_a_cause_named_by_the_block_is_handed_on() -> None:
    blocked = {"phase": "smoke", "cause": "driver-too-old", "lines": [], "next_step": "update"}
    guarded = Guarded(processes=[], status=3)
    assert judge(Run(blocked=blocked, guarded=guarded, end="blocked").observations()).cause is Cause.DRIVER_TOO_OLD


def test_an_empty_or_headless_journal_is_refused() -> None:
    with pytest.raises(JudgeError):
        judge([])
    with pytest.raises(JudgeError, match=r"run\.start"):
        judge(Run().observations()[1:])


def test_energy_without_a_rise_confirms_nothing_and_costs_nothing() -> None:
    verdict = judge(Run(guarded=Guarded(busy_w=91.0)).observations())
    assert witness(verdict, "W4").state is WitnessState.UNAVAILABLE
    assert verdict.outcome is PROVEN


def test_the_negative_control_is_refuted_by_the_same_rules() -> None:
    def answer(control: Guarded) -> Claim:
        run = Run(profile="run", comparison=control)
        return claim(judge(run.observations()), "negative-control")

    role = "negative-control"
    assert answer(Guarded(role=role, processes=[cpu_process(pid=5000)])).outcome is PROVEN
    assert answer(Guarded(role=role, processes=[], status=3)).outcome is PROVEN
    assert answer(Guarded(role=role, processes=[], status=0)).outcome is UNKNOWN
    assert answer(Guarded(role=role, processes=[Process(pid=5000)])).outcome is REFUTED
    assert not any(one.id == role for one in judge(Run().observations()).claims)


def test_the_table_of_ranks() -> None:
    processes = [
        Process(pid=4243, rank=1, world_size=3, uuid=OTHER_GPU),
        Process(pid=4242, rank=0, world_size=3),
        cpu_process(pid=4244, rank=2, world_size=3),
        Process(pid=4245, steps=0, sampled=()),
    ]
    rows = ranks(Run(guarded=Guarded(processes=processes, gpus=(GPU, OTHER_GPU))).observations())
    assert [(row.rank, row.devices, row.steps) for row in rows] == [(0, (GPU,), 40), (1, (OTHER_GPU,), 40), (2, (), 40)]
    assert [row.against is None for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (None, "was not recorded"),
        ({"driver": {"loaded": False}, "device_files": False}, "no driver can have answered"),
        (
            {"driver": {"kernel_mode": "580.1"}, "libraries": [{"name": "libnvidia-ml", "version": "999.9"}]},
            "a library of version 999.9",
        ),
        ({"devices": []}, "the probe did not see"),
    ],
    ids=["none", "no-driver", "another-library", "no-device"],
)
def test_a_stand_in_for_the_driver_proves_nothing(machine: dict[str, object] | None, why: str) -> None:
    verdict = judge(Run(machine=machine).observations())
    assert verdict.outcome is UNKNOWN
    assert why in claim(verdict, "trained-on-cuda").reason
