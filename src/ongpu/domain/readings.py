"""A journal read into typed readings: the judge's eyes.

What the supervisor wrote must have the right shape, else :class:`JudgeError` names the observation. What the hook
wrote comes from the watched process, which could write anything: a bad record never raises, it makes its source
*damaged*, and a damaged source confirms nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ongpu.domain.witness import Observation

SAMPLER_KINDS = frozenset({"baseline", "nvml.sample", "nvml.error", "energy", "tree", "sampler.end"})
ROLES = ("train", "cpu-comparison")


class JudgeError(ValueError):
    """An observation that the supervisor cannot have written: the journal is not one of ours, or is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMemory:
    """What the hook says of one device at one step; ``reserved`` and ``peak`` are torch's, in bytes."""

    device: str
    uuid: str | None
    allocated: int | None
    reserved: int | None
    peak: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """One full sample of an optimizer, bytes by device."""

    seq: int
    t: float
    optimizer: int
    optimizer_step: int
    final: bool
    parameters: Mapping[str, int]
    gradients: Mapping[str, int]
    state: Mapping[str, int]
    memory: tuple[HeldMemory, ...]

    @property
    def off_cuda(self) -> tuple[str, ...]:
        """``parameters on cpu`` and the like, for bytes that are not on a CUDA device."""
        held = (("parameters", self.parameters), ("gradients", self.gradients), ("optimizer state", self.state))
        return tuple(
            f"{part} on {device}"
            for part, where in held
            for device, size in sorted(where.items())
            if size > 0 and not device.startswith("cuda")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEnd:
    """What the hook counted for one optimizer over the process' life."""

    optimizer: int
    steps: int
    off_cuda_steps: int
    last_step: int
    last_parameters: tuple[int, int]
    last_gradients: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEnd:
    """The last record of a process."""

    seq: int
    t: float
    steps: int
    created: int
    never_stepped: int
    records: int
    cuda_initialized: bool
    is_available: bool | None
    optimizers: tuple[OptimizerEnd, ...]


@dataclass(slots=True, kw_only=True)
class HookSource:
    """Everything one process said of itself."""

    source: str
    pid: int | None = None
    start_time: float | None = None
    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    rank: int | None = None
    world_size: int | None = None
    numbers: list[int] = field(default_factory=list)
    samples: list[StepSample] = field(default_factory=list)
    times: list[tuple[int, float]] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    end: HookEnd | None = None

    @property
    def stepping(self) -> bool:
        """Whether an optimizer stepped in it, as far as is known."""
        return bool(self.samples) or bool(self.times) or (self.end is not None and self.end.steps > 0)

    @property
    def label(self) -> str:
        """``process 1234`` or ``rank 3 (process 1234)``."""
        name = f"process {self.pid}" if self.pid is not None else f"the process of {self.source}"
        return f"rank {self.rank} ({name})" if self.rank is not None and (self.world_size or 1) > 1 else name


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """NVML on one device: ``processes`` maps pid to bytes (``None``: hidden); itself ``None``: no list to be had."""

    memory_used: int | None
    processes: Mapping[int, int | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of every device."""

    seq: int
    t: float
    devices: Mapping[str, DeviceSample]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineDevice:
    """One device before the command started."""

    seq: int
    uuid: str
    name: str
    memory_bytes: int | None
    now: DeviceSample
    idle_w: float | None


@dataclass(slots=True, kw_only=True)
class RoleReadings:
    """All readings of one guarded command."""

    role: str
    start_seq: int | None = None
    root_pid: int | None = None
    argv: tuple[str, ...] = ()
    exit_seq: int | None = None
    status: int | None = None
    interrupted: bool = False
    stopped_reason: str | None = None
    baseline: dict[str, BaselineDevice] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    energy: dict[str, list[tuple[int, float, int]]] = field(default_factory=dict)
    sm_used: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    tree: dict[int, set[float]] = field(default_factory=dict)
    hooks: dict[str, HookSource] = field(default_factory=dict)
    sampler_numbers: list[int] = field(default_factory=list)
    sampler_end: bool = False
    nvml_errors: list[tuple[int, str]] = field(default_factory=list)
    guard_end_seq: int | None = None
    expected_hooks: dict[str, int] = field(default_factory=dict)
    expected_sampler_lines: int | None = None
    sampler_error: str | None = None
    hook_files_refused: int = 0

    def known(self, uuid: str) -> str:
        """The device's UUID as NVML writes it: torch gives the bytes of a part of a split GPU without its ``MIG-``."""
        bare = uuid.partition("-")[2]
        return next((one for one in self.baseline if one.partition("-")[2] == bare), uuid)

    @property
    def sampler_problem(self) -> str | None:
        """Why the sampler's lines are not all there; ``None`` when they are."""
        if self.sampler_error is not None:
            return self.sampler_error
        if self.expected_sampler_lines is None:
            return "the guard did not close its record"
        whole = self.sampler_end and self.sampler_numbers == list(range(self.expected_sampler_lines))
        return None if whole else "lines of the sampler are missing"


@dataclass(slots=True, kw_only=True)
class Readings:
    """A whole journal."""

    profile: str
    run_seq: int
    expect_gpu: str | None
    simulated: bool
    compare_cpu: bool
    requested_device: str | None
    roles: dict[str, RoleReadings]
    machine_uuids: tuple[str, ...] | None = None
    machine_seq: int | None = None
    smoke: list[tuple[int, str, str, Mapping[str, object]]] = field(default_factory=list)
    files: tuple[int, Mapping[str, tuple[int, str]]] | None = None
    blocked: tuple[int, str, str | None] | None = None
    incomplete: str | None = None


def read(observations: Sequence[Observation]) -> Readings:
    """Read a journal.

    :raises JudgeError: an observation of the supervisor's has the wrong shape.
    """
    if not observations or observations[0].kind != "run.start":
        raise JudgeError("observation 0 is not run.start")
    first = observations[0]
    readings = Readings(
        profile=_text(first.data, "profile", first),
        run_seq=first.seq,
        expect_gpu=_text_or_none(first.data, "expect_gpu", first),
        simulated=_flag(first.data, "simulated", first),
        compare_cpu=_flag(first.data, "compare_cpu", first),
        requested_device=_text_or_none(first.data, "requested_device", first),
        roles={role: RoleReadings(role=role) for role in ROLES},
    )
    if readings.profile not in {"enable", "run"}:
        raise JudgeError(f"profile {readings.profile!r} is neither enable nor run")
    for one in observations[1:]:
        _take(readings, one)
    readings.incomplete = _incomplete(observations)
    return readings


def _incomplete(observations: Sequence[Observation]) -> str | None:
    """Why the journal is not whole: nothing may be proven from one that is not, so that leaving out never helps."""
    for number, one in enumerate(observations):
        if one.seq != number:
            return f"observation {number} is missing"
    last = observations[-1]
    if last.kind != "run.end":
        return "the journal does not end with run.end"
    if last.data.get("observations", last.seq) != last.seq:
        return "run.end counts other observations than are here"
    end = last.data.get("end")
    return None if end == "completed" else f"the run ended {end}"


def _take(readings: Readings, one: Observation) -> None:
    data = one.data
    if one.kind in SAMPLER_KINDS or one.kind in {"child.start", "child.exit", "hook", "guard.end"}:
        role = readings.roles.get(_text(data, "role", one))
        if role is None:
            raise JudgeError(f"observation {one.seq}: role {data.get('role')!r} is unknown")
        _take_of_role(role, one)
        return
    match one.kind:
        case "run.start":
            raise JudgeError(f"observation {one.seq}: a second run.start")
        case "machine":
            readings.machine_seq = one.seq
            readings.simulated = readings.simulated or _flag(data, "simulated", one)
            devices = [_mapping(each, one) for each in _list(data, "devices", one)]
            readings.machine_uuids = tuple(str(each["uuid"]) for each in devices if each.get("uuid") is not None)
        case "smoke":
            figures = data.get("figures")
            readings.smoke.append(
                (
                    one.seq,
                    _text(data, "name", one),
                    _text(data, "outcome", one),
                    _mapping(figures, one) if figures is not None else {},
                )
            )
        case "files":
            found: dict[str, tuple[int, str]] = {}
            for each in _list(data, "files", one):
                row = _mapping(each, one)
                found[_text(row, "name", one)] = (_whole(row, "size_bytes", one), _text(row, "sha256", one))
            readings.files = (one.seq, found)
        case "blocked":
            readings.blocked = (one.seq, _text(data, "phase", one), _text_or_none(data, "cause", one))
        case _:
            pass


def _take_of_role(role: RoleReadings, one: Observation) -> None:
    data = one.data
    if one.kind in SAMPLER_KINDS:
        role.sampler_numbers.append(_whole(data, "n", one))
    match one.kind:
        case "child.start":
            if role.start_seq is not None:
                raise JudgeError(f"observation {one.seq}: a second child.start of {role.role}")
            role.start_seq = one.seq
            role.root_pid = _whole(data, "pid", one)
            role.argv = tuple(str(each) for each in _list(data, "argv", one))
        case "child.exit":
            if role.exit_seq is not None:
                raise JudgeError(f"observation {one.seq}: a second child.exit of {role.role}")
            role.exit_seq = one.seq
            role.status = _whole(data, "status", one)
            role.interrupted = _flag(data, "interrupted", one)
            role.stopped_reason = _text_or_none(data, "stopped_reason", one)
        case "baseline":
            for each in _list(data, "devices", one):
                device = _baseline_device(_mapping(each, one), one)
                role.baseline[device.uuid] = device
        case "nvml.sample":
            rows = [_mapping(each, one) for each in _list(data, "devices", one)]
            devices = {_text(row, "uuid", one): _device_sample(row, one) for row in rows}
            role.samples.append(Sample(seq=one.seq, t=_number(data, "t_mono", one), devices=devices))
        case "energy":
            for each in _list(data, "devices", one):
                row = _mapping(each, one)
                for used in _list(row, "sm_percent", one) if row.get("sm_percent") is not None else ():
                    entry = _mapping(used, one)
                    if _whole(entry, "percent", one) > 0:
                        key = (_whole(entry, "pid", one), _text(row, "uuid", one))
                        role.sm_used.setdefault(key, []).append(one.seq)
                if row.get("energy_mj") is not None:
                    reading = (one.seq, _number(data, "t_mono", one), _whole(row, "energy_mj", one))
                    role.energy.setdefault(_text(row, "uuid", one), []).append(reading)
        case "tree":
            for each in _list(data, "processes", one):
                row = _mapping(each, one)
                role.tree.setdefault(_whole(row, "pid", one), set()).add(_number(row, "start_time", one))
        case "nvml.error":
            role.nvml_errors.append((one.seq, f"{_text(data, 'what', one)}: {_text(data, 'code', one)}"))
        case "sampler.end":
            role.sampler_end = True
        case "hook":
            _take_hook(role, one)
        case "guard.end":
            _take_guard_end(role, one)
        case _:
            pass


def _take_guard_end(role: RoleReadings, one: Observation) -> None:
    if role.guard_end_seq is not None:
        raise JudgeError(f"observation {one.seq}: a second guard.end of {role.role}")
    role.guard_end_seq = one.seq
    for each in _list(one.data, "hooks", one):
        row = _mapping(each, one)
        role.expected_hooks[_text(row, "source", one)] = _whole(row, "records", one)
    role.expected_sampler_lines = _whole(one.data, "sampler_lines", one)
    role.sampler_error = _text_or_none(one.data, "sampler_error", one)
    role.hook_files_refused = _whole(one.data, "hook_files_refused", one)


def _baseline_device(row: Mapping[str, object], one: Observation) -> BaselineDevice:
    start, end = _whole_or_none(row, "energy_start_mj", one), _whole_or_none(row, "energy_end_mj", one)
    seconds = _number(row, "energy_seconds", one) if start is not None else 0.0
    idle = (end - start) / 1000 / seconds if start is not None and end is not None and seconds > 0 else None
    return BaselineDevice(
        seq=one.seq,
        uuid=_text(row, "uuid", one),
        name=_text(row, "name", one),
        memory_bytes=_whole_or_none(row, "memory_bytes", one),
        now=_device_sample(row, one),
        idle_w=idle if idle is None or idle >= 0 else None,
    )


def _device_sample(row: Mapping[str, object], one: Observation) -> DeviceSample:
    processes: dict[int, int | None] | None = None
    if row.get("processes") is not None:
        processes = {}
        for each in _list(row, "processes", one):
            entry = _mapping(each, one)
            processes[_whole(entry, "pid", one)] = _whole_or_none(entry, "used_bytes", one)
    return DeviceSample(memory_used=_whole_or_none(row, "memory_used_bytes", one), processes=processes)


# -- the hook: claimed by the watched process, so nothing raises -------------------------------------------------


def _take_hook(role: RoleReadings, one: Observation) -> None:
    name = one.data.get("source")
    if not isinstance(name, str):
        raise JudgeError(f"observation {one.seq}: a hook record without its source")
    source = role.hooks.setdefault(name, HookSource(source=name))
    try:
        source.numbers.append(_whole(one.data, "n", one))
        _take_record(source, one)
    except JudgeError as error:
        source.errors.append((one.seq, str(error)))


def _take_record(source: HookSource, one: Observation) -> None:
    data = one.data
    pid = _whole(data, "pid", one)
    if source.pid is None:
        source.pid = pid
    elif source.pid != pid:
        raise JudgeError(f"observation {one.seq}: two pids in {source.source}")
    match data.get("record"):
        case "torch":
            start_time = data.get("start_time")
            source.start_time = _number(data, "start_time", one) if start_time is not None else None
            source.version = _text_or_none(data, "version", one)
            source.cuda = _text_or_none(data, "cuda", one)
            source.hip = _text_or_none(data, "hip", one)
            source.rank = _whole_or_none(data, "rank", one)
            source.world_size = _whole_or_none(data, "world_size", one)
        case "step":
            source.samples.append(_step_sample(one))
        case "times":
            for each in _list(data, "times", one):
                if not isinstance(each, Sequence) or isinstance(each, str) or len(each) != 2:
                    raise JudgeError(f"observation {one.seq}: a step time is no pair")
                pair = {"n": each[0], "t": each[1]}
                source.times.append((_whole(pair, "n", one), _number(pair, "t", one)))
        case "warning":
            source.warnings.append((one.seq, _text(data, "text", one)))
        case "end":
            source.end = _hook_end(one)
        case "error":
            source.errors.append((one.seq, f"the hook failed in {data.get('where')}: {data.get('text')}"))
        case other:
            raise JudgeError(f"observation {one.seq}: hook record {other!r}")


def _step_sample(one: Observation) -> StepSample:
    data = one.data
    memory = []
    for each in _list(data, "devices", one):
        row = _mapping(each, one)
        memory.append(
            HeldMemory(
                device=_text(row, "device", one),
                uuid=_text_or_none(row, "uuid", one),
                allocated=_whole_or_none(row, "allocated_bytes", one),
                reserved=_whole_or_none(row, "reserved_bytes", one),
                peak=_whole_or_none(row, "max_reserved_bytes", one),
            )
        )
    return StepSample(
        seq=one.seq,
        t=_number(data, "t_mono", one),
        optimizer=_whole(data, "optimizer", one),
        optimizer_step=_whole(data, "optimizer_step", one),
        final=_flag(data, "final", one),
        parameters=_sizes(data, "parameters", one),
        gradients=_sizes(data, "gradients", one),
        state=_sizes(data, "state", one),
        memory=tuple(memory),
    )


def _hook_end(one: Observation) -> HookEnd:
    data = one.data
    optimizers = []
    for each in _list(data, "optimizers", one):
        row = _mapping(each, one)
        last = _mapping(row.get("last"), one)
        optimizers.append(
            OptimizerEnd(
                optimizer=_whole(row, "optimizer", one),
                steps=_whole(row, "steps", one),
                off_cuda_steps=_whole(row, "off_cuda_steps", one),
                last_step=_whole(last, "step", one),
                last_parameters=(_whole(last, "parameters_on_cuda", one), _whole(last, "parameters", one)),
                last_gradients=(_whole(last, "gradients_on_cuda", one), _whole(last, "gradients", one)),
            )
        )
    available = data.get("is_available")
    return HookEnd(
        seq=one.seq,
        t=_number(data, "t_mono", one),
        steps=_whole(data, "steps", one),
        created=_whole(data, "created", one),
        never_stepped=_whole(data, "never_stepped", one),
        records=_whole(data, "records", one),
        cuda_initialized=_flag(data, "cuda_initialized", one),
        is_available=None if available is None else _flag(data, "is_available", one),
        optimizers=tuple(optimizers),
    )


# -- shapes ----------------------------------------------------------------------------------------------------


def _mapping(value: object, one: Observation) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise JudgeError(f"observation {one.seq} ({one.kind}): an object was expected, not {type(value).__name__}")
    return value


def _list(data: Mapping[str, object], key: str, one: Observation) -> Sequence[object]:
    value = data.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no list")
    return value


def _text(data: Mapping[str, object], key: str, one: Observation) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no text")
    return value


def _text_or_none(data: Mapping[str, object], key: str, one: Observation) -> str | None:
    return None if data.get(key) is None else _text(data, key, one)


def _whole(data: Mapping[str, object], key: str, one: Observation) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no whole number from 0 up")
    return value


def _whole_or_none(data: Mapping[str, object], key: str, one: Observation) -> int | None:
    return None if data.get(key) is None else _whole(data, key, one)


def _number(data: Mapping[str, object], key: str, one: Observation) -> float:
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no finite number")
    return float(value)


def _flag(data: Mapping[str, object], key: str, one: Observation) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is neither true nor false")
    return value


def _sizes(data: Mapping[str, object], key: str, one: Observation) -> Mapping[str, int]:
    found = _mapping(data.get(key), one)
    return {device: _whole(found, device, one) for device in found}
