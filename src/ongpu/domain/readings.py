"""A journal read into typed readings: the judge's eyes.

What the supervisor wrote must have the right shape, else :class:`JudgeError` names the observation. What the hook
wrote comes from the watched process, which could write anything: a bad record never raises, it makes its source
*damaged*, and a damaged source confirms nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ongpu.domain.hook_readings import HookSource, take_record
from ongpu.domain.shapes import JudgeError, flag, listed, mapping, number, text, text_or_none, whole, whole_or_none
from ongpu.domain.witness import Observation

SAMPLER_KINDS = frozenset({"baseline", "nvml.sample", "nvml.error", "energy", "tree", "sampler.end"})
ROLES = ("train", "cpu-comparison", "negative-control")


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
    trace_steps: int | None = None
    exit_seq: int | None = None
    status: int | None = None
    interrupted: bool = False
    stopped_reason: str | None = None
    baseline: dict[str, BaselineDevice] = field(default_factory=dict)
    bare_uuids: dict[str, str] = field(default_factory=dict)
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
        return uuid if uuid in self.baseline else self.bare_uuids.get(uuid.partition("-")[2], uuid)

    @property
    def sampler_problem(self) -> str | None:
        """Why the sampler's lines are not all there; ``None`` when they are."""
        if self.sampler_error is not None:
            return self.sampler_error
        if self.start_seq is None:
            return "no command was started"
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
    driverless: str | None = None
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
        profile=text(first.data, "profile", first),
        run_seq=first.seq,
        expect_gpu=text_or_none(first.data, "expect_gpu", first),
        simulated=flag(first.data, "simulated", first),
        compare_cpu=flag(first.data, "compare_cpu", first),
        requested_device=text_or_none(first.data, "requested_device", first),
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
    for expected, one in enumerate(observations):
        if one.seq != expected:
            return f"observation {expected} is missing"
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
        role = readings.roles.get(text(data, "role", one))
        if role is None:
            raise JudgeError(f"observation {one.seq}: role {data.get('role')!r} is unknown")
        _take_of_role(role, one)
        return
    match one.kind:
        case "run.start":
            raise JudgeError(f"observation {one.seq}: a second run.start")
        case "machine":
            readings.machine_seq = one.seq
            readings.simulated = readings.simulated or flag(data, "simulated", one)
            devices = [mapping(each, one) for each in listed(data, "devices", one)]
            readings.driverless = _driverless(data, one)
            readings.machine_uuids = tuple(str(each["uuid"]) for each in devices if each.get("uuid") is not None)
        case "smoke":
            figures = data.get("figures")
            readings.smoke.append(
                (
                    one.seq,
                    text(data, "name", one),
                    text(data, "outcome", one),
                    mapping(figures, one) if figures is not None else {},
                )
            )
        case "files":
            found: dict[str, tuple[int, str]] = {}
            for each in listed(data, "files", one):
                row = mapping(each, one)
                found[text(row, "name", one)] = (whole(row, "size_bytes", one), text(row, "sha256", one))
            readings.files = (one.seq, found)
        case "blocked":
            readings.blocked = (one.seq, text(data, "phase", one), text_or_none(data, "cause", one))
        case _:
            pass


def _driverless(data: Mapping[str, object], one: Observation) -> str | None:
    """Why what answered for NVML cannot be a driver (a stand-in library, say); ``None`` where nothing tells so."""
    driver = mapping(data["driver"], one) if data.get("driver") is not None else {}
    if driver.get("loaded") is False and data.get("device_files") is False:
        return "NVIDIA's kernel module is not loaded and its device files are missing: no driver can have answered"
    kernel = driver.get("kernel_mode")
    for each in listed(data, "libraries", one) if data.get("libraries") is not None else ():
        library = mapping(each, one)
        version = library.get("version")
        told = isinstance(version, str) and isinstance(kernel, str)
        if library.get("name") == "libnvidia-ml" and told and version != kernel:
            return f"what answers for NVML is a library of version {version}, the driver is {kernel}"
    return None


def _take_of_role(role: RoleReadings, one: Observation) -> None:
    data = one.data
    if one.kind in SAMPLER_KINDS:
        role.sampler_numbers.append(whole(data, "n", one))
    match one.kind:
        case "child.start":
            if role.start_seq is not None:
                raise JudgeError(f"observation {one.seq}: a second child.start of {role.role}")
            role.start_seq = one.seq
            role.root_pid = whole(data, "pid", one)
            role.argv = tuple(str(each) for each in listed(data, "argv", one))
            role.trace_steps = whole_or_none(data, "trace_steps", one)
        case "child.exit":
            if role.exit_seq is not None:
                raise JudgeError(f"observation {one.seq}: a second child.exit of {role.role}")
            role.exit_seq = one.seq
            role.status = whole(data, "status", one)
            role.interrupted = flag(data, "interrupted", one)
            role.stopped_reason = text_or_none(data, "stopped_reason", one)
        case "baseline":
            for each in listed(data, "devices", one):
                device = _baseline_device(mapping(each, one), one)
                role.baseline[device.uuid] = device
                role.bare_uuids[device.uuid.partition("-")[2]] = device.uuid
        case "nvml.sample":
            rows = [mapping(each, one) for each in listed(data, "devices", one)]
            devices = {text(row, "uuid", one): _device_sample(row, one) for row in rows}
            role.samples.append(Sample(seq=one.seq, t=number(data, "t_mono", one), devices=devices))
        case "energy":
            for each in listed(data, "devices", one):
                row = mapping(each, one)
                for used in listed(row, "sm_percent", one) if row.get("sm_percent") is not None else ():
                    entry = mapping(used, one)
                    if whole(entry, "percent", one) > 0:
                        key = (whole(entry, "pid", one), text(row, "uuid", one))
                        role.sm_used.setdefault(key, []).append(one.seq)
                if row.get("energy_mj") is not None:
                    reading = (one.seq, number(data, "t_mono", one), whole(row, "energy_mj", one))
                    role.energy.setdefault(text(row, "uuid", one), []).append(reading)
        case "tree":
            for each in listed(data, "processes", one):
                row = mapping(each, one)
                role.tree.setdefault(whole(row, "pid", one), set()).add(number(row, "start_time", one))
        case "nvml.error":
            role.nvml_errors.append((one.seq, f"{text(data, 'what', one)}: {text(data, 'code', one)}"))
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
    for each in listed(one.data, "hooks", one):
        row = mapping(each, one)
        role.expected_hooks[text(row, "source", one)] = whole(row, "records", one)
    role.expected_sampler_lines = whole(one.data, "sampler_lines", one)
    role.sampler_error = text_or_none(one.data, "sampler_error", one)
    role.hook_files_refused = whole(one.data, "hook_files_refused", one)


def _baseline_device(row: Mapping[str, object], one: Observation) -> BaselineDevice:
    start, end = whole_or_none(row, "energy_start_mj", one), whole_or_none(row, "energy_end_mj", one)
    seconds = number(row, "energy_seconds", one) if start is not None else 0.0
    idle = (end - start) / 1000 / seconds if start is not None and end is not None and seconds > 0 else None
    return BaselineDevice(
        seq=one.seq,
        uuid=text(row, "uuid", one),
        name=text(row, "name", one),
        memory_bytes=whole_or_none(row, "memory_bytes", one),
        now=_device_sample(row, one),
        idle_w=idle if idle is None or idle >= 0 else None,
    )


def _device_sample(row: Mapping[str, object], one: Observation) -> DeviceSample:
    processes: dict[int, int | None] | None = None
    if row.get("processes") is not None:
        processes = {}
        for each in listed(row, "processes", one):
            entry = mapping(each, one)
            processes[whole(entry, "pid", one)] = whole_or_none(entry, "used_bytes", one)
    return DeviceSample(memory_used=whole_or_none(row, "memory_used_bytes", one), processes=processes)


def _take_hook(role: RoleReadings, one: Observation) -> None:
    name = one.data.get("source")
    if not isinstance(name, str):
        raise JudgeError(f"observation {one.seq}: a hook record without its source")
    source = role.hooks.setdefault(name, HookSource(source=name))
    try:
        source.numbers.append(whole(one.data, "n", one))
        take_record(source, one)
    except JudgeError as error:
        source.errors.append((one.seq, str(error)))
