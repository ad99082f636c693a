"""The comparison with the CPU: medians of step intervals, from the times that the hook told."""

from __future__ import annotations

import itertools
import statistics

from ongpu.domain.case import Answer, Case, child_ended_well, proven, refuted, unknown
from ongpu.domain.hook_readings import HookSource
from ongpu.domain.readings import RoleReadings
from ongpu.domain.verdict import WitnessState

# The milestone's "clearly faster", in figures: the median step on the GPU takes at most half of the CPU's.
REQUIRED_SPEED_RATIO = 2.0
WARM_UP_STEPS = 2  # kernels are loaded and tuned in the first steps
MINIMUM_INTERVALS = 5


def faster_than_cpu(case: Case) -> Answer:
    """The median step of the training against that of the same command on the CPU."""
    other = case.readings.roles["cpu-comparison"]
    if other.start_seq is None:
        return unknown("no comparison with the CPU was run")
    if other.status != 0 or other.interrupted or other.stopped_reason is not None:
        return unknown("the comparison on the CPU did not end well", other.exit_seq)
    gpu, cpu = _medians(case.role), _medians(other)
    if not gpu or not cpu:
        return unknown("too few steps were timed for a median", case.role.exit_seq, other.exit_seq)
    if any(
        not one.startswith("cpu") for source in other.hooks.values() for s in source.samples for one in s.parameters
    ):
        return unknown("the comparison did not stay on the CPU", other.exit_seq)
    if _model_bytes(case.role) != _model_bytes(other):
        return unknown("the two runs trained models of different size", case.role.exit_seq, other.exit_seq)
    if case.w1.state is not WitnessState.CONFIRMED:
        return unknown(f"W1 {case.w1.state.value}: {case.w1.reason}", *case.w1.observations)
    slowest, fastest = max(gpu), min(cpu)
    ratio = fastest / slowest
    reason = f"median step {slowest * 1000:.2f} ms on the GPU, {fastest * 1000:.2f} ms on the CPU: ratio {ratio:.2f}"
    seqs = (case.role.exit_seq, other.exit_seq)
    if ratio < REQUIRED_SPEED_RATIO:
        return refuted(reason, *seqs)
    ended = child_ended_well(case)
    return proven(reason, *seqs) if ended is None else ended


def _medians(role: RoleReadings) -> list[float]:
    """Median seconds a step of each stepping process; empty when one has too few or when records are missing."""
    stepping = [source for source in role.hooks.values() if source.stepping]
    complete = all(role.expected_hooks.get(one.source) == len(one.numbers) for one in stepping)
    intervals = [_intervals(source) for source in stepping]
    if not complete or any(len(one) < MINIMUM_INTERVALS for one in intervals):
        return []
    return [statistics.median(one) for one in intervals]


def _intervals(source: HookSource) -> list[float]:
    """Seconds between steps after the warm-up; thinned times count each step between them alike.

    Steps under the profiler of a kernel trace are slower for that alone: they are left out, and so is the interval
    behind them, in which the trace is read.
    """
    found: list[float] = []
    slowed = {step for trace in source.traces if trace.unit == "step" for step, _, _ in trace.steps}
    slowed |= {step + 1 for step in slowed}
    times = [one for one in source.times if one[0] > WARM_UP_STEPS]
    for (step, t), (later, until) in itertools.pairwise(times):
        if 0 < later - step <= 1000 and until > t and slowed.isdisjoint(range(step + 1, later + 1)):
            found.extend([(until - t) / (later - step)] * (later - step))
    return found


def _model_bytes(role: RoleReadings) -> list[int]:
    first = [source.samples[0] for source in role.hooks.values() if source.samples]
    return sorted(sum(sample.parameters.values()) for sample in first)
