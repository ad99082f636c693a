"""What each witness has to say over one guarded command: readings in, one :class:`Witness` out.

W1   the process itself, through the hook: where parameters, gradients and optimizer state are. Only *claimed*.
W2   the driver, through NVML: the same process on the same device (by UUID), with memory that moves with W1's bytes.
W2d  where the platform hides processes (WDDM, WSL): the device's memory above its baseline moves with W1's bytes.
W4   the device's energy counter above its idle baseline. Adds weight; decides only together with W5
     (:mod:`ongpu.domain.kernel_trace`), where the platform tells neither processes nor memory.

Traps this file keeps clear of, seen on a real H100: device handles prove nothing (``is_available()`` alone opens
them), NVML's per-process *utilization* can carry a foreign pid, a bare context holds 518 to 710 MiB.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ongpu.domain.hook_readings import HookSource, StepSample
from ongpu.domain.readings import DeviceSample, RoleReadings
from ongpu.domain.verdict import Witness, WitnessState

MIB = 1 << 20
# How far NVML's figure for a process may lie above torch's reserved bytes. A context was seen to hold 518 MiB bare
# and 710 MiB with one cuBLAS module loaded (H100, driver 580.159.04); more modules, cuDNN, and NCCL's buffers lie
# outside torch's allocator too. 3 GiB leaves 2.3 GiB for those: our own bound, not a documented one. A process above
# it holds memory that torch does not speak for, and then the figure says nothing about the training.
CONTEXT_ALLOWANCE_BYTES = 3072 * MIB
# One reading in five may miss: a program that empties torch's cache between two samples of the hook is honest.
TOLERATED_SHARE = 5
# Energy: mean power over the window at least 10 % and 5 W above idle, over at least half a second (the counter moves
# every 0.1 s in steps of some 7 J at idle).
ENERGY_FACTOR = 1.10
ENERGY_MARGIN_W = 5.0
ENERGY_WINDOW_S = 0.5
_MAX_SEQS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes torch had reserved on a device at a moment, and the most it had reserved until then."""

    t: float
    reserved: int
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One process that claims to have trained on one device."""

    source: HookSource
    uuid: str
    held: tuple[Held, ...]


def inside(role: RoleReadings) -> Witness:
    """W1 over every process of the command."""
    title = "the training process: where its parameters, gradients and optimizer state are"
    state, reason, seqs = _inside(role)
    return Witness(
        name="W1", title=title, state=state, level="process", reason=reason, observations=tuple(seqs[:_MAX_SEQS])
    )


def _inside(role: RoleReadings) -> tuple[WitnessState, str, list[int]]:
    sources = [role.hooks[name] for name in sorted(role.hooks)]
    for source in sources:
        found = accused(source)
        if found:
            return WitnessState.CONTRADICTED, found[1], [found[0]]
    stepping = [source for source in sources if source.stepping]
    if not sources and role.start_seq is None:
        return WitnessState.UNAVAILABLE, "no command was started", []
    if not sources:
        reason = (
            "no process of the command said anything: none imported torch where the hook could see it "
            "(another framework, or a Python started with -I, -E or -S)"
        )
        return WitnessState.UNAVAILABLE, reason, []
    for source in sources:
        if source.errors:
            return WitnessState.ERROR, f"{source.label}: {source.errors[0][1]}", [source.errors[0][0]]
    if not stepping:
        created = sum(source.end.created for source in sources if source.end)
        return WitnessState.UNAVAILABLE, f"torch was imported, but none of {created} optimizers made a step", []
    problem = _gaps(role) or next((text for source in stepping if (text := _lacks(source))), None) or _ranks(stepping)
    if problem:
        return WitnessState.UNAVAILABLE, problem, []
    steps = sum(source.end.steps for source in stepping if source.end)
    devices = sorted({one.uuid for one in trained(role)})
    reason = (
        f"{len(stepping)} process{'es' if len(stepping) > 1 else ''} made {steps} optimizer steps, "
        f"every tensor of every sampled step on {', '.join(devices)}"
    )
    seqs = [
        seq
        for source in stepping
        for seq in [*(one.seq for one in source.samples), source.end.seq if source.end else 0]
    ]
    return WitnessState.CONFIRMED, reason, seqs


def accused(source: HookSource) -> tuple[int, str] | None:
    """What the process itself says against GPU training."""
    for sample in source.samples:
        if sample.off_cuda:
            what = "; ".join(sample.off_cuda)
            return sample.seq, f"{source.label}, optimizer {sample.optimizer}, step {sample.optimizer_step}: {what}"
    if source.end is not None:
        for one in source.end.optimizers:
            if one.off_cuda_steps:
                text = f"{one.off_cuda_steps} of {one.steps} steps of optimizer {one.optimizer} had tensors off CUDA"
                return source.end.seq, f"{source.label}: {text}"
    return None


def _gaps(role: RoleReadings) -> str | None:
    """Why what the hook wrote is not all here."""
    if role.guard_end_seq is None:
        return "the guard did not close its record"
    if role.hook_files_refused:
        return "there were more processes than the guard follows"
    if set(role.expected_hooks) != set(role.hooks):
        return "the records of a whole process are missing"
    for name, count in role.expected_hooks.items():
        source = role.hooks[name]
        if source.numbers != list(range(count)):
            return f"records of {source.label} are missing"
        if source.stepping and (source.end is None or source.end.records != count):
            return f"{source.label} ended without its last record (killed, or left by os._exit)"
    return None


def _lacks(source: HookSource) -> str | None:
    """What is missing before the process' word can be taken."""
    end = source.end
    if end is None:
        return f"{source.label} ended without its last record"
    if source.hip is not None:
        return f"{source.label} ran torch for ROCm: its devices are not NVIDIA's"
    if end.steps != sum(one.steps for one in end.optimizers):
        return f"{source.label} counts its steps two ways"
    by_optimizer: dict[int, list[StepSample]] = {}
    for sample in source.samples:
        by_optimizer.setdefault(sample.optimizer, []).append(sample)
    for one in end.optimizers:
        samples = by_optimizer.get(one.optimizer, [])
        first = any(sample.optimizer_step == 1 for sample in samples)
        if not first or one.last_step != one.steps:
            return f"{source.label}: the first or the last step of optimizer {one.optimizer} was not seen"
        if one.last_parameters[1] == 0 or one.last_parameters[0] != one.last_parameters[1]:
            return f"{source.label}: optimizer {one.optimizer} had no trainable parameters at its last step"
        if one.last_gradients[0] != one.last_gradients[1]:
            return f"{source.label}: gradients of optimizer {one.optimizer} were not all on CUDA at its last step"
        if not any(sum(sample.gradients.values()) for sample in samples):
            return f"{source.label}: no sampled step of optimizer {one.optimizer} had gradients"
        if not all(sum(sample.parameters.values()) for sample in samples):
            return f"{source.label}: a sampled step of optimizer {one.optimizer} had no trainable parameters"
    for sample in source.samples:
        named = {one.device: one.uuid for one in sample.memory}
        devices = {*sample.parameters, *sample.gradients, *sample.state}
        if any(not named.get(device) for device in devices):
            return f"{source.label}: a device did not name its UUID at step {sample.optimizer_step}"
    return None


def _ranks(stepping: Sequence[HookSource]) -> str | None:
    sizes = {source.world_size for source in stepping if (source.world_size or 1) > 1}
    for size in sorted(size for size in sizes if size is not None):
        said = {source.rank for source in stepping if source.world_size == size}
        missing = next((rank for rank in range(size) if rank not in said), None)
        if missing is not None:
            return f"rank {missing} of {size} said nothing"
    return None


def trained(role: RoleReadings) -> tuple[Trained, ...]:
    """Every (process, device) that claims tensors on CUDA, with what torch had reserved there over time."""
    found: dict[tuple[str, str], list[Held]] = {}
    for name in sorted(role.hooks):
        source = role.hooks[name]
        # Torch keeps what it reserved until the process ends: the last record closes the window in which the driver
        # was asked. A training of half a second whose optimizer is gone by then has no later sample of its own.
        looks = [(sample.t, sample.memory) for sample in (*source.samples, *source.at_exit)]
        looks += [(source.end.t, source.end.memory)] if source.end is not None else []
        for t, memory in looks:
            for one in memory:
                if one.uuid is not None:
                    points = found.setdefault((name, role.known(one.uuid)), [])
                    if one.reserved is not None and one.peak is not None:
                        points.append(Held(t=t, reserved=one.reserved, peak=one.peak))
    return tuple(
        Trained(source=role.hooks[name], uuid=uuid, held=tuple(sorted(points, key=lambda held: held.t)))
        for (name, uuid), points in sorted(found.items())
    )


def _bounds(held: Sequence[Held], t: float) -> tuple[int, int] | None:
    """What torch held at ``t``, from the samples around it: at least, at most. ``None`` outside of them."""
    # Bisected (``held`` is in order of time): a checker must not need minutes for a journal of a day.
    before = bisect.bisect_right(held, t, key=_time) - 1
    after = bisect.bisect_left(held, t, key=_time)
    if before < 0 or after == len(held):
        return None
    low, high = held[before], held[after]
    return min(low.reserved, high.reserved), max(low.peak, high.peak)


def _time(held: Held) -> float:
    return held.t


@dataclass(slots=True, kw_only=True)
class _Count:
    """How the readings of one process on one device compare with its word."""

    agree: int = 0
    below: int = 0
    above: int = 0
    absent: int = 0
    hidden: int = 0
    seqs: list[int]

    @property
    def total(self) -> int:
        return self.agree + self.below + self.above + self.absent + self.hidden


def driver(role: RoleReadings, pairs: Sequence[Trained]) -> tuple[Witness, bool]:
    """W2, and whether processes are hidden so that W2d may speak in its place."""
    title = "the driver: the process on the device, with memory that moves with what it reports"

    def said(state: WitnessState, reason: str, seqs: Iterable[int] = ()) -> Witness:
        kept = tuple(seqs)[:_MAX_SEQS]
        return Witness(name="W2", title=title, state=state, level="process", reason=reason, observations=kept)

    if role.sampler_problem:
        return said(WitnessState.ERROR, role.sampler_problem), False
    if not pairs:
        return said(WitnessState.UNAVAILABLE, "no process reports memory on a CUDA device to compare with"), False
    verdicts = [_driver_on(role, pair) for pair in pairs]
    order = [WitnessState.CONTRADICTED, WitnessState.ERROR, WitnessState.UNAVAILABLE, WitnessState.CONFIRMED]
    state, reason, seqs, _ = min(verdicts, key=lambda one: order.index(one[0]))
    stuck = next((one for one in role.nvml_errors if one[1].endswith(": timeout")), None)
    if stuck is not None and state is not WitnessState.CONTRADICTED:
        # Nobody looked any more from the call on that hung: readings before it say nothing of what came after.
        return said(WitnessState.ERROR, f"the driver stopped answering ({stuck[1]})", [stuck[0]]), False
    hidden = all(one[3] for one in verdicts) and state is WitnessState.UNAVAILABLE
    if state is WitnessState.CONFIRMED:
        seqs = [seq for one in verdicts for seq in one[2]]
        reason = "; ".join(one[1] for one in verdicts)
    return said(state, reason, seqs), hidden


def _driver_on(role: RoleReadings, pair: Trained) -> tuple[WitnessState, str, list[int], bool]:
    """State, reason, observations, and whether the platform hides processes."""
    source, uuid = pair.source, pair.uuid
    count = _Count(seqs=[])
    used: list[int] = []
    listed_anybody = False
    device_below = True
    for sample in role.samples:
        bounds, device = _bounds(pair.held, sample.t), sample.devices.get(uuid)
        if bounds is None or device is None:
            continue
        count.seqs.append(sample.seq)
        listed_anybody = listed_anybody or bool(device.processes)
        device_below = device_below and device.memory_used is not None and device.memory_used < bounds[0]
        _compare(count, device, source.pid, bounds, used)
    if count.total == 0:
        return WitnessState.UNAVAILABLE, f"no reading of {uuid} fell between two reports of {source.label}", [], False
    if device_below:
        reason = f"{source.label} reports more memory on {uuid} than the whole device has in use"
        return WitnessState.CONTRADICTED, reason, count.seqs, False
    if count.hidden == count.total or not listed_anybody:
        return WitnessState.UNAVAILABLE, f"the platform does not list processes with their memory on {uuid}", [], True
    if count.hidden:
        reason = f"the driver stopped answering about {uuid} in {count.hidden} of {count.total} readings"
        return WitnessState.ERROR, reason, count.seqs, False
    if not _in_tree(role, source):
        return WitnessState.UNAVAILABLE, f"{source.label} was not seen in the command's process tree", [], False
    if count.absent == count.total:
        reason = (
            f"the driver never lists {source.label} on {uuid} (a container with the host's process ids looks so too)"
        )
        return WitnessState.UNAVAILABLE, reason, count.seqs, False
    if count.below == count.total:
        reason = f"the driver sees less memory of {source.label} on {uuid} than the process reports, in every reading"
        return WitnessState.CONTRADICTED, reason, count.seqs, False
    before = role.baseline.get(uuid)
    if before is None or before.now.processes is None:
        return WitnessState.UNAVAILABLE, f"nobody looked at {uuid} before {source.label} started", [], False
    if (
        source.pid is not None and source.pid in before.now.processes
    ):  # a part of a process is guarded: what it held before must be less
        held = before.now.processes[source.pid]
        if held is None or not used or held >= min(used):
            reason = f"{source.label} already held the memory on {uuid} before the guarded part began"
            return WitnessState.UNAVAILABLE, reason, [before.seq], False
    if count.agree == 0 or (count.total - count.agree) * TOLERATED_SHARE > count.total:
        reason = (
            f"the driver's figure for {source.label} on {uuid} moves with its report in {count.agree} of "
            f"{count.total} readings ({count.below} below, {count.above} above, {count.absent} not listed)"
        )
        return WitnessState.UNAVAILABLE, reason, count.seqs, False
    reason = (
        f"{source.label} is listed on {uuid} with {max(used) // MIB} MiB where it reports up to "
        f"{max(one.peak for one in pair.held) // MIB} MiB reserved, and not so before: "
        f"{count.agree} of {count.total} readings agree"
    )
    return WitnessState.CONFIRMED, reason, [before.seq, *count.seqs], False


def _compare(count: _Count, device: DeviceSample, pid: int | None, bounds: tuple[int, int], used: list[int]) -> None:
    if device.processes is None:
        count.hidden += 1
    elif pid is None or pid not in device.processes:
        count.absent += 1
    elif (size := device.processes[pid]) is None:
        count.hidden += 1
    elif size < bounds[0]:
        count.below += 1
    elif size > bounds[1] + CONTEXT_ALLOWANCE_BYTES:
        count.above += 1
    else:
        count.agree += 1
        used.append(size)


def _in_tree(role: RoleReadings, source: HookSource) -> bool:
    """Whether (pid, start time) belongs to the command; without a start time of its own the pid alone decides."""
    seen = role.tree.get(source.pid) if source.pid is not None else None
    if not seen:
        return False
    return source.start_time is None or any(abs(one - source.start_time) < 0.02 for one in seen)


def device_memory(role: RoleReadings, pairs: Sequence[Trained]) -> Witness:
    """W2d: the device's memory above its baseline moves with what the processes report, all together."""
    verdicts = [_device_memory_on(role, uuid, [one for one in pairs if one.uuid == uuid]) for uuid in _uuids(pairs)]
    if not verdicts:
        verdicts = [(WitnessState.UNAVAILABLE, "no process reports memory on a CUDA device to compare with", [])]
    order = [WitnessState.CONTRADICTED, WitnessState.UNAVAILABLE, WitnessState.CONFIRMED]
    state, reason, seqs = min(verdicts, key=lambda one: order.index(one[0]))
    return Witness(
        name="W2d",
        title="the device: its memory above the idle baseline moves with what the process reports",
        state=state,
        level="device",
        reason=reason,
        observations=tuple(seqs[:_MAX_SEQS]),
    )


def memory_hidden(role: RoleReadings, pairs: Sequence[Trained]) -> bool:
    """Whether nothing was ever told of the memory of the devices that trained."""
    uuids = _uuids(pairs)
    looks = [role.baseline[uuid].now for uuid in uuids if uuid in role.baseline]
    looks += [sample.devices[uuid] for sample in role.samples for uuid in uuids if uuid in sample.devices]
    return all(look.memory_used is None for look in looks)


def _uuids(pairs: Sequence[Trained]) -> list[str]:
    return sorted({one.uuid for one in pairs})


def _device_memory_on(role: RoleReadings, uuid: str, pairs: Sequence[Trained]) -> tuple[WitnessState, str, list[int]]:
    before = role.baseline.get(uuid)
    if before is None or before.now.memory_used is None:
        return WitnessState.UNAVAILABLE, f"the memory of {uuid} was not read before the start", []
    agree = total = 0
    seqs, rises = [before.seq], []
    for sample in role.samples:
        device = sample.devices.get(uuid)
        bounds = [found for pair in pairs if (found := _bounds(pair.held, sample.t)) is not None]
        if device is None or device.memory_used is None or len(bounds) != len(pairs):
            continue
        low, high = sum(one[0] for one in bounds), sum(one[1] for one in bounds)
        rise = device.memory_used - before.now.memory_used
        total += 1
        seqs.append(sample.seq)
        if low <= rise <= high + CONTEXT_ALLOWANCE_BYTES * len(pairs):
            agree += 1
            rises.append(rise)
    if total == 0:
        return WitnessState.UNAVAILABLE, f"no reading of {uuid} fell between two reports of the training", []
    if agree == 0 or (total - agree) * TOLERATED_SHARE > total:
        reason = f"the memory of {uuid} moves with the training's report in {agree} of {total} readings"
        return WitnessState.UNAVAILABLE, reason, seqs
    reason = (
        f"the memory of {uuid} rose by {max(rises) // MIB} MiB with the training's report, "
        f"{agree} of {total} readings; another program could have caused the same rise"
    )
    return WitnessState.CONFIRMED, reason, seqs


def energy(role: RoleReadings, pairs: Sequence[Trained]) -> Witness:
    """W4 on every device that trained, or on every device read where nothing is known of training."""
    uuids = _uuids(pairs) or sorted(role.energy)
    told = [_energy_on(role, uuid, [one for one in pairs if one.uuid == uuid]) for uuid in uuids]
    if role.sampler_problem:
        told = [(WitnessState.ERROR, role.sampler_problem, [])]
    if not told:
        told = [(WitnessState.UNAVAILABLE, "no energy counter was read", [])]
    order = [WitnessState.ERROR, WitnessState.UNAVAILABLE, WitnessState.CONFIRMED]
    if not pairs:  # one busy device is enough where nobody says which it is
        order.reverse()
    state, reason, seqs = min(told, key=lambda one: order.index(one[0]))
    return Witness(
        name="W4",
        title="the device: energy above its idle baseline",
        state=state,
        level="device",
        reason=reason,
        observations=tuple(seqs[:_MAX_SEQS]),
    )


def _energy_on(role: RoleReadings, uuid: str, pairs: Sequence[Trained]) -> tuple[WitnessState, str, list[int]]:
    before, readings = role.baseline.get(uuid), role.energy.get(uuid, [])
    if before is None or before.idle_w is None:
        return WitnessState.UNAVAILABLE, f"the idle power of {uuid} was not measured", []
    moments = [held.t for one in pairs for held in one.held]
    if moments:
        began, ended = min(moments) - 1.0, max(moments) + 1.0
        readings = [one for one in readings if began <= one[1] <= ended]
    if len(readings) < 2 or readings[-1][1] - readings[0][1] < ENERGY_WINDOW_S:
        return WitnessState.UNAVAILABLE, f"the work on {uuid} was too short for two readings of the energy counter", []
    joules = (readings[-1][2] - readings[0][2]) / 1000
    seconds = readings[-1][1] - readings[0][1]
    if any(later[2] < earlier[2] for earlier, later in itertools.pairwise(readings)):
        return WitnessState.ERROR, f"the energy counter of {uuid} went backwards", [one[0] for one in readings]
    watts = joules / seconds
    figures = f"{joules:.0f} J in {seconds:.1f} s on {uuid}, {watts:.0f} W against {before.idle_w:.0f} W idle"
    if watts < max(before.idle_w * ENERGY_FACTOR, before.idle_w + ENERGY_MARGIN_W):
        return WitnessState.UNAVAILABLE, f"no clear rise: {figures}", [one[0] for one in readings]
    return WitnessState.CONFIRMED, figures, [before.seq, *(one[0] for one in readings)]
