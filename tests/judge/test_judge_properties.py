"""What must hold for every journal: leaving out never helps, and no shape brings the judge down."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.domain.judge import JudgeError, judge
from ongpu.domain.verdict import Outcome, Verdict
from ongpu.domain.witness import Observation
from tests.judge.judge_journals import GPU, MIB, OTHER_GPU, Guarded, Process, Row, Run, Trace, cpu_process, number

PROVEN = Outcome.PROVEN


def proven_of(observations: list[Observation]) -> set[str]:
    """What is proven: claim ids, and ``verdict``. A journal that is refused proves nothing."""
    try:
        verdict = judge(observations)
    except JudgeError:
        return set()
    found = {one.id for one in verdict.claims if one.outcome is PROVEN}
    return found | ({"verdict"} if verdict.outcome is PROVEN else set())


def traces() -> st.SearchStrategy[Trace]:
    return st.builds(
        Trace,
        state=st.sampled_from(["traced", "traced", "traced", "unavailable", "error"]),
        unit=st.sampled_from(["step", "replay"]),
        kernels=st.sampled_from([(40, 40, 40), (0, 0, 0), (40, 0, 40), (40,)]),
        uuid=st.sampled_from([GPU, OTHER_GPU, None]),
        graph_launches=st.sampled_from([0, 0, 3]),
        control=st.booleans(),
        busy_ns=st.sampled_from([150_000_000, 900_000_000]),
    )


def processes() -> st.SearchStrategy[list[Process]]:
    honest = st.builds(
        Process,
        pid=st.integers(4242, 4244),
        steps=st.sampled_from([0, 4, 40]),
        reserved=st.sampled_from([30 * MIB, 2000 * MIB]),
        uuid=st.sampled_from([GPU, OTHER_GPU, None]),
        cpu_from_step=st.sampled_from([None, None, None, 1, 6, 39]),
        state=st.sampled_from([None, None, {"cpu": 5 * MIB}]),
        rank=st.sampled_from([None, 0, 1]),
        world_size=st.sampled_from([None, 1, 2]),
        warnings=st.sampled_from([(), (), ("sm_120 is not compatible with the current PyTorch installation",)]),
        ends=st.sampled_from([True, True, True, False]),
        trace=st.one_of(st.none(), st.just(Trace()), traces()),
    )
    one = st.one_of(honest, st.just(Process()), st.just(Process(trace=Trace())), st.just(cpu_process()))
    return st.lists(one, max_size=3, unique_by=lambda process: process.pid)


def guarded(role: str) -> st.SearchStrategy[Guarded]:
    return st.builds(
        Guarded,
        role=st.just(role),
        processes=processes(),
        status=st.sampled_from([0, 0, 0, 1, 137]),
        interrupted=st.sampled_from([False, False, True]),
        stopped_reason=st.sampled_from([None, None, "it ran longer than 5 s"]),
        trace_steps=st.sampled_from([None, 3]),
        hidden=st.booleans(),
        memory_hidden=st.booleans(),
        still=st.sampled_from([False, False, True]),
        listed=st.sampled_from([True, True, False]),
        foreign=st.sampled_from([{}, {999: 4000 * MIB}]),
        used=st.sampled_from([None, None, {4242: 600 * MIB}, {4242: 50_000 * MIB}]),
        sampler_error=st.sampled_from([None, None, "the sampler ended with signal 11"]),
        gpus=st.sampled_from([(GPU,), (GPU, OTHER_GPU)]),
        busy_w=st.sampled_from([80.0, 500.0]),
    )


def runs() -> st.SearchStrategy[Run]:
    return st.builds(
        Run,
        profile=st.sampled_from(["enable", "run"]),
        expect_gpu=st.sampled_from([None, "H100", "RTX 5090"]),
        simulated=st.sampled_from([False, False, False, True]),
        compare_cpu=st.booleans(),
        requested_device=st.sampled_from([None, "cuda", "cpu"]),
        guarded=st.one_of(guarded("train"), st.just(Guarded()), st.just(_told_by_energy_and_kernels())),
        comparison=st.one_of(st.none(), guarded("cpu-comparison"), st.just(_slow())),
        end=st.sampled_from(["completed", "completed", "completed", "failed", None]),
    )


def _told_by_energy_and_kernels() -> Guarded:
    return Guarded(processes=[Process(trace=Trace())], trace_steps=3, hidden=True, memory_hidden=True)


def _slow() -> Guarded:
    return Guarded(role="cpu-comparison", processes=[cpu_process(steps=12, step_s=0.9, pid=5000)])


@settings(max_examples=120, deadline=None)
@given(run=runs(), data=st.data())
def test_leaving_out_never_helps(run: Run, data: st.DataObject) -> None:
    rows = run.rows()
    before = proven_of(number(rows))
    gone = data.draw(st.sets(st.integers(1, len(rows) - 1), min_size=1, max_size=6))
    kept = [one for one in number(rows) if one.seq not in gone]
    assert proven_of(kept) == set()  # with its number, whatever is missing is missed
    # An author who numbers the rest anew hides the gap; the counts inside still miss it.
    renumbered = number([row for index, row in enumerate(rows) if index not in gone])
    assert proven_of(renumbered) <= before


@pytest.mark.parametrize(
    "run",
    [
        Run(compare_cpu=True, comparison=_slow()),
        Run(profile="run", expect_gpu=None),
        Run(guarded=Guarded(hidden=True)),
        Run(guarded=_told_by_energy_and_kernels()),
        Run(guarded=Guarded(processes=[Process(trace=Trace(kernels=(0, 0, 0), busy_ns=0))], trace_steps=3)),
        Run(guarded=Guarded(processes=[Process(trace=Trace(state="error"))], trace_steps=3)),
        Run(guarded=Guarded(processes=[Process(), Process(pid=4243, rank=1, world_size=2)])),
        Run(guarded=Guarded(processes=[Process(rank=0, world_size=2), cpu_process(pid=4243, rank=1, world_size=2)])),
        Run(guarded=Guarded(processes=[Process(cpu_from_step=20)])),
        Run(guarded=Guarded(used={4242: 600 * MIB}, baseline_used=0)),
    ],
    ids=[
        "full",
        "run",
        "hidden",
        "w4+w5",
        "no-kernels",
        "no-trace",
        "half-silent",
        "one-rank-on-cpu",
        "warm-up",
        "forged",
    ],
)
def test_every_line_of_realistic_journals_deleted_in_turn(run: Run) -> None:
    rows = run.rows()
    before = proven_of(number(rows))
    for gone in range(1, len(rows)):
        assert proven_of([one for one in number(rows) if one.seq != gone]) == set()
        assert proven_of(number(rows[:gone] + rows[gone + 1 :])) <= before, rows[gone]
    for end in range(1, len(rows)):
        assert proven_of(number(rows[:end])) == set()


@pytest.mark.parametrize("run", [Run(), Run(guarded=_told_by_energy_and_kernels())], ids=["w2", "w4+w5"])
def test_every_record_that_matters_is_missed(run: Run) -> None:
    """Not only never better: without any one hook record or sampler line the honest run is no longer proven."""
    rows = run.rows()
    assert "verdict" in proven_of(number(rows))
    for gone, (kind, _) in enumerate(rows):
        if kind not in {"run.start", "phase"}:
            without = proven_of(number(rows[:gone] + rows[gone + 1 :]))
            assert "verdict" not in without, rows[gone]


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "cpu",
    [],
    [[]],
    {},
    {"cpu": 1},
    [1, 2],
]


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value[:3]):
            found += _paths(one, (*path, index))
    return found


@settings(max_examples=80, deadline=None)
@given(run=runs(), trace=traces(), asked=st.sampled_from([None, 3]))
def test_a_trace_proves_only_where_nothing_else_can_be_asked(run: Run, trace: Trace, asked: int | None) -> None:
    """Against the same run without it: no claim is proven by a trace where processes or memory can be read."""

    def proven(one: Trace | None, trace_steps: int | None) -> set[str]:
        told = [dataclasses.replace(process, trace=one) for process in run.guarded.processes]
        changed = dataclasses.replace(run.guarded, processes=told, trace_steps=trace_steps)
        return proven_of(dataclasses.replace(run, guarded=changed).observations())

    guarded = run.guarded
    nothing_else = guarded.memory_hidden and (guarded.hidden or not guarded.listed)
    assert nothing_else or proven(trace, 3) <= proven(None, asked)


@settings(max_examples=300, deadline=None)
@given(run=runs(), data=st.data())
def test_no_value_brings_the_judge_down(run: Run, data: st.DataObject) -> None:
    rows: list[Row] = copy.deepcopy(run.rows())
    for _ in range(data.draw(st.integers(1, 3))):
        _, body = rows[data.draw(st.integers(0, len(rows) - 1))]
        path = data.draw(st.sampled_from(_paths(body)))
        inside: Any = body
        try:
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
        except (KeyError, IndexError, TypeError):
            continue
    try:
        verdict = judge(number(rows))
    except JudgeError as error:
        assert str(error)
    else:
        assert isinstance(verdict, Verdict) and verdict.claims
        assert all(seq < len(rows) for one in verdict.claims for seq in one.observations)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["hook", "nvml.sample", "child.exit", "files", "smoke", "x"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_rubbish_is_refused_by_name_or_ignored(kind: str, value: Any) -> None:
    observations = Run().observations()
    body = value if isinstance(value, dict) else {"role": "train", "source": "s", "n": value, "devices": value}
    observations.insert(3, Observation(seq=3, t_wall=0.0, t_mono=0.0, kind=kind, data=body))
    observations = [dataclasses.replace(one, seq=seq) for seq, one in enumerate(observations)]
    try:
        judge(observations)
    except JudgeError as error:
        assert str(error)
