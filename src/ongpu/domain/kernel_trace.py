"""W5: kernels that ran on the GPU during a few steps, as the process' own profiler recorded them (kineto on CUPTI).

It weighs what W1 and W2 cannot: whether the GPU *worked* in the steps that W1 claims for it. It is claimed by the
process, as W1 is, so alone it proves nothing. A trace without a kernel contradicts, but only where the hook's own
kernel is in it: a profiler that records nothing (another tool holds CUPTI, say) must not speak against anybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from ongpu.domain.hook_readings import HookSource, TraceRecord
from ongpu.domain.readings import RoleReadings
from ongpu.domain.testimony import Trained
from ongpu.domain.verdict import Witness, WitnessState

MINIMUM_STEPS = 2
# The window is timed on the host, the kernels on the device; seen no further apart than this.
CLOCK_SLACK_S = 0.005
_ORDER = (WitnessState.CONTRADICTED, WitnessState.ERROR, WitnessState.UNAVAILABLE, WitnessState.CONFIRMED)
_SHOWN_NAME = 60

Said = tuple[WitnessState, str, list[int]]


def kernel_trace(role: RoleReadings, pairs: Sequence[Trained]) -> Witness | None:
    """The worst of all processes that stepped; ``None`` where no trace was asked for."""
    if role.trace_steps is None:
        return None
    sources = sorted(role.hooks.values(), key=lambda one: (one.rank or 0, one.source))
    told = [_of_process(role, source, pairs) for source in sources if source.stepping]
    if not told:
        told = [(WitnessState.UNAVAILABLE, "no process of the command made an optimizer step of torch's", [])]
    state, reason, seqs = min(told, key=lambda one: _ORDER.index(one[0]))
    if state is WitnessState.CONFIRMED:
        reason, seqs = "; ".join(one[1] for one in told), [seq for one in told for seq in one[2]]
    return Witness(
        name="W5",
        title="the kernels that ran in a few steps, as the process' own profiler recorded them",
        state=state,
        level="process",
        reason=reason,
        observations=tuple(seqs),
    )


def _of_process(role: RoleReadings, source: HookSource, pairs: Sequence[Trained]) -> Said:
    if len(source.traces) != 1:
        return WitnessState.UNAVAILABLE, f"{source.label} left {len(source.traces) or 'no'} kernel traces", []
    trace = source.traces[0]
    if trace.state != "traced":
        state = WitnessState.ERROR if trace.state == "error" else WitnessState.UNAVAILABLE
        return state, f"{source.label}: {trace.reason}", [trace.seq]
    problem = _does_not_add_up(source, trace)
    if problem:
        return WitnessState.ERROR, f"the kernel trace of {source.label} {problem}", [trace.seq]
    claimed = {pair.uuid for pair in pairs if pair.source is source}
    if not claimed:
        return WitnessState.UNAVAILABLE, f"{source.label} names no GPU to compare its kernels with", [trace.seq]
    state, reason = _compare(role, source, trace, claimed)
    return state, reason, [trace.seq]


def _does_not_add_up(source: HookSource, trace: TraceRecord) -> str | None:
    """What no profiler would have said."""
    if len(trace.steps) < MINIMUM_STEPS:
        return f"covers {len(trace.steps)} steps, fewer than {MINIMUM_STEPS}"
    if sum(count for _, count, _ in trace.steps) + trace.unplaced != trace.kernels:
        return "counts its kernels two ways"
    if trace.ended <= trace.began or (source.end is not None and trace.ended > source.end.t):
        return "has a window that cannot be"
    longest = (trace.ended - trace.began + CLOCK_SLACK_S) * 1e9
    if any(one.busy_ns > longest for one in trace.devices):
        return "has a GPU busy for longer than its window"
    if source.end is not None and trace.unit == "step" and trace.steps[-1][0] > source.end.steps:
        return "covers steps that were not made"
    return None


def _compare(role: RoleReadings, source: HookSource, trace: TraceRecord, claimed: set[str]) -> tuple[WitnessState, str]:
    """The kernels against the GPUs on which W1 says the steps were made."""
    steps = f"{trace.unit}s {trace.steps[0][0]} to {trace.steps[-1][0]}"
    where = {role.known(one.uuid): one for one in trace.devices if one.uuid is not None and one.kernels}
    said = ", ".join(sorted(claimed))
    if not claimed & set(where):
        if trace.graph_launches:
            reason = f"{source.label} launched CUDA graphs in {steps}, and kernels of graphs were not recorded"
            return WitnessState.UNAVAILABLE, reason
        if any(one.kernels and one.uuid is None for one in trace.devices):
            return WitnessState.UNAVAILABLE, f"a GPU that ran kernels of {source.label} in {steps} named no UUID"
        if where:
            others = ", ".join(sorted(where))
            return WitnessState.CONTRADICTED, f"the kernels of {source.label} in {steps} ran on {others}, not on {said}"
        if trace.control and not trace.kernels:
            return WitnessState.CONTRADICTED, f"no kernel of {source.label} ran on {said} in {steps}"
        return WitnessState.ERROR, (
            f"the profiler of {source.label} recorded nothing it could be believed by, not even the hook's own kernel "
            "(another tool may hold CUPTI)"
        )
    silent = sorted(claimed - set(where))
    if silent:
        return WitnessState.UNAVAILABLE, f"no kernel of {source.label} was recorded on {', '.join(silent)} in {steps}"
    empty = next((step for step, count, _ in trace.steps if not count), None)
    if empty is not None:
        return WitnessState.UNAVAILABLE, f"no kernel of {source.label} could be counted to {trace.unit} {empty}"
    window = trace.ended - trace.began
    busy = max(where[uuid].busy_ns for uuid in claimed) / 1e9
    return WitnessState.CONFIRMED, (
        f"{source.label}: {trace.kernels} kernels in {steps} on {said}, busy for {min(busy / window, 1):.0%} of these "
        f"{window * 1000:.0f} ms under the profiler, which took {trace.cost_s * 1000:.0f} ms to start and to read"
        f"{_most(trace)}"
    )


def _most(trace: TraceRecord) -> str:
    """The kernel that took most of the time. Its name comes from the process: of it, what is plain."""
    if not trace.names:
        return ""
    name = "".join(one for one in trace.names[0][0] if " " <= one <= "~")
    return f", most of it in {name[:_SHOWN_NAME]}{'...' if len(name) > _SHOWN_NAME else ''}"
