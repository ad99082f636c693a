"""What the hook told, read into typed records: claimed by the watched process, which could write anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ongpu.domain.shapes import (
    JudgeError,
    flag,
    listed,
    mapping,
    number,
    sizes,
    text,
    text_or_none,
    whole,
    whole_or_none,
)
from ongpu.domain.witness import Observation


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
    memory: tuple[HeldMemory, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedDevice:
    """What a kernel trace saw on one device: kernels, and how long it was busy with them or with copies."""

    uuid: str | None
    kernels: int
    busy_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRecord:
    """The kernel trace of one process (W5). ``steps``: number, kernels launched in it, their time in nanoseconds.

    Everything after ``reason`` is empty where ``state`` is not ``traced``. ``unit`` is ``step``, or ``replay`` of a
    CUDA graph. ``control``: the hook's own kernel was recorded, so the trace was able to see one.
    """

    seq: int
    state: str
    reason: str
    unit: str = "step"
    began: float = 0.0
    ended: float = 0.0
    steps: tuple[tuple[int, int, int], ...] = ()
    unplaced: int = 0
    graph_launches: int = 0
    devices: tuple[TracedDevice, ...] = ()
    names: tuple[tuple[str, int, int], ...] = ()
    control: bool = False
    cost_s: float = 0.0

    @property
    def kernels(self) -> int:
        """How many kernels ran in the window, on whatever device."""
        return sum(one.kernels for one in self.devices)


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
    at_exit: list[StepSample] = field(default_factory=list)
    times: list[tuple[int, float]] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    traces: list[TraceRecord] = field(default_factory=list)
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


def take_record(source: HookSource, one: Observation) -> None:
    """Add one record to what its process said.

    :raises JudgeError: the record has the wrong shape: the source is damaged, which is the caller's to note.
    """
    data = one.data
    pid = whole(data, "pid", one)
    if source.pid is None:
        source.pid = pid
    elif source.pid != pid:
        raise JudgeError(f"observation {one.seq}: two pids in {source.source}")
    match data.get("record"):
        case "torch":
            start_time = data.get("start_time")
            source.start_time = number(data, "start_time", one) if start_time is not None else None
            source.version = text_or_none(data, "version", one)
            source.cuda = text_or_none(data, "cuda", one)
            source.hip = text_or_none(data, "hip", one)
            source.rank = whole_or_none(data, "rank", one)
            source.world_size = whole_or_none(data, "world_size", one)
        case "step":
            sample = _step_sample(one)
            # Where things lie at the exit says nothing of a step: Lightning moves its model to the CPU when it is done.
            (source.at_exit if sample.final else source.samples).append(sample)
        case "times":
            for each in listed(data, "times", one):
                if not isinstance(each, Sequence) or isinstance(each, str) or len(each) != 2:
                    raise JudgeError(f"observation {one.seq}: a step time is no pair")
                pair = {"n": each[0], "t": each[1]}
                source.times.append((whole(pair, "n", one), number(pair, "t", one)))
        case "warning":
            source.warnings.append((one.seq, text(data, "text", one)))
        case "trace":
            source.traces.append(_trace(one))
        case "end":
            source.end = _hook_end(one)
        case "error":
            source.errors.append((one.seq, f"the hook failed in {data.get('where')}: {data.get('text')}"))
        case other:
            raise JudgeError(f"observation {one.seq}: hook record {other!r}")


def _step_sample(one: Observation) -> StepSample:
    data = one.data
    return StepSample(
        seq=one.seq,
        t=number(data, "t_mono", one),
        optimizer=whole(data, "optimizer", one),
        optimizer_step=whole(data, "optimizer_step", one),
        final=flag(data, "final", one),
        parameters=sizes(data, "parameters", one),
        gradients=sizes(data, "gradients", one),
        state=sizes(data, "state", one),
        memory=_memory(one),
    )


def _memory(one: Observation) -> tuple[HeldMemory, ...]:
    """What torch holds on each device the record names."""
    rows = (mapping(each, one) for each in listed(one.data, "devices", one))
    return tuple(
        HeldMemory(
            device=text(row, "device", one),
            uuid=text_or_none(row, "uuid", one),
            allocated=whole_or_none(row, "allocated_bytes", one),
            reserved=whole_or_none(row, "reserved_bytes", one),
            peak=whole_or_none(row, "max_reserved_bytes", one),
        )
        for row in rows
    )


def _trace(one: Observation) -> TraceRecord:
    data = one.data
    state = text(data, "state", one)
    if state != "traced":
        if state not in {"unavailable", "error"}:
            raise JudgeError(f"observation {one.seq}: trace state {state!r}")
        code = text_or_none(data, "code", one)
        reason = text(data, "reason", one)
        return TraceRecord(seq=one.seq, state=state, reason=f"{code}: {reason}" if code else reason)
    steps = [_three(each, one) for each in listed(data, "steps", one)]
    rows = [mapping(each, one) for each in listed(data, "on_devices", one)]
    names = [mapping(each, one) for each in listed(data, "kernels", one)]
    return TraceRecord(
        seq=one.seq,
        state=state,
        reason="",
        unit=text(data, "unit", one),
        began=number(data, "t_began", one),
        ended=number(data, "t_ended", one),
        steps=tuple(steps),
        unplaced=whole(data, "unplaced", one),
        graph_launches=whole(data, "graph_launches", one),
        devices=tuple(
            TracedDevice(
                uuid=text_or_none(row, "uuid", one),
                kernels=whole(row, "kernels", one),
                busy_ns=whole(row, "busy_ns", one),
            )
            for row in rows
        ),
        names=tuple((text(row, "name", one), whole(row, "count", one), whole(row, "device_ns", one)) for row in names),
        control=flag(data, "control", one),
        cost_s=number(data, "cost_s", one),
    )


def _three(value: object, one: Observation) -> tuple[int, int, int]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise JudgeError(f"observation {one.seq}: a traced step is no triple")
    row = dict(zip(("step", "kernels", "device_ns"), value, strict=True))
    return whole(row, "step", one), whole(row, "kernels", one), whole(row, "device_ns", one)


def _hook_end(one: Observation) -> HookEnd:
    data = one.data
    optimizers = []
    for each in listed(data, "optimizers", one):
        row = mapping(each, one)
        last = mapping(row.get("last"), one)
        optimizers.append(
            OptimizerEnd(
                optimizer=whole(row, "optimizer", one),
                steps=whole(row, "steps", one),
                off_cuda_steps=whole(row, "off_cuda_steps", one),
                last_step=whole(last, "step", one),
                last_parameters=(whole(last, "parameters_on_cuda", one), whole(last, "parameters", one)),
                last_gradients=(whole(last, "gradients_on_cuda", one), whole(last, "gradients", one)),
            )
        )
    available = data.get("is_available")
    return HookEnd(
        seq=one.seq,
        t=number(data, "t_mono", one),
        steps=whole(data, "steps", one),
        created=whole(data, "created", one),
        never_stepped=whole(data, "never_stepped", one),
        records=whole(data, "records", one),
        cuda_initialized=flag(data, "cuda_initialized", one),
        is_available=None if available is None else flag(data, "is_available", one),
        optimizers=tuple(optimizers),
        memory=_memory(one) if "devices" in data else (),
    )
