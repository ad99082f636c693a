"""The curves of a run, from its observations: what was read when, on one axis of seconds since the run began.

Only numbers leave this module: every label is one of ours, so a chart can carry no text of a bundle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ongpu.domain.witness import Observation

# What a chart draws at most: a night's readings are grouped, and the page says so.
_MAX_POINTS: Final = 1200
_MAX_GPUS: Final = 8
_ROLES: Final = {"train": "training", "cpu-comparison": "the same on the CPU", "negative-control": "CUDA hidden"}
_PHASES: Final = ("probe", "plan", "install", "scan", "smoke", "train", "compare", "evidence")

Number = float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One series of a chart: a value for each of the chart's ``x``; ``None`` where nothing was read."""

    label: str
    y: tuple[Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over one ``x``. ``readings`` is how many there were; ``grouped`` of them became one point."""

    id: str
    title: str
    unit: str
    x_label: str
    x: tuple[float, ...]
    curves: tuple[Curve, ...]
    readings: int
    grouped: int = 1
    stepped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the axis: a phase, or a guarded command."""

    label: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Everything drawn over time. ``gpus`` are the UUIDs behind the words "GPU 0", "GPU 1"."""

    charts: tuple[Chart, ...]
    spans: tuple[Span, ...]
    gpus: tuple[str, ...]
    length_s: float


def timeline(observations: Sequence[Observation]) -> Timeline:
    """The curves of memory, utilization, power and steps. Values of another type than a number count as not read."""
    begin = observations[0].t_mono
    devices = _Devices()
    for one in observations:
        if one.kind in {"nvml.sample", "baseline"}:
            devices.take(one, _time(one) - begin)
    charts = [*devices.charts(), _steps(observations, begin)]
    return Timeline(
        charts=tuple(chart for chart in charts if chart is not None),
        spans=tuple(_spans(observations, begin)),
        gpus=tuple(devices.uuids),
        length_s=max(observations[-1].t_mono - begin, 0.0),
    )


def loss_chart(texts: Mapping[str, bytes]) -> Chart | None:
    """The loss over the steps, from the ``metrics.jsonl`` of each role; ``None`` where none was written.

    :param texts: the files' bytes by the word for their curve.
    """
    found = {label: _losses(data) for label, data in texts.items()}
    found = {label: losses for label, losses in found.items() if losses}
    steps = sorted({step for losses in found.values() for step in losses})
    if not steps:
        return None
    curves = [Curve(label=label, y=tuple(losses.get(step) for step in steps)) for label, losses in found.items()]
    chart = Chart(
        id="loss",
        title="Loss, as the training wrote it down",
        unit="",
        x_label="optimizer step",
        x=tuple(float(step) for step in steps),
        curves=tuple(curves),
        readings=len(steps),
    )
    return _thinned(chart, last=True)


def _losses(data: bytes) -> dict[int, float]:
    losses: dict[int, float] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step, loss = (row.get("step"), _number(row.get("loss"))) if isinstance(row, dict) else (None, None)
        if isinstance(step, int) and not isinstance(step, bool) and loss is not None:
            losses[step] = loss
    return losses


@dataclass(slots=True)
class _Devices:
    """The readings of every GPU, and which processes are the run's own."""

    uuids: list[str] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    rows: list[dict[str, Mapping[str, Any]]] = field(default_factory=list)

    def take(self, one: Observation, t_s: float) -> None:
        rows = {}
        for device in _mappings(one.data.get("devices")):
            uuid = str(device.get("uuid"))
            if uuid not in self.uuids and len(self.uuids) < _MAX_GPUS:
                self.uuids.append(uuid)
            rows[uuid] = device
        self.x.append(t_s)
        self.rows.append(rows)

    def charts(self) -> Iterable[Chart | None]:
        gib, milli = 1.0 / (1 << 30), 1e-3
        memory = self._curves("in use on GPU {}", lambda row: _scaled(row.get("memory_used_bytes"), gib))
        listed = self._curves("of listed processes on GPU {}", lambda row: _listed(row, gib))
        yield self._chart("memory", "GPU memory", "GiB", (*memory, *listed))
        percent = self._curves("GPU {}", lambda row: _number(row.get("utilization_percent")))
        yield self._chart("utilization", "GPU utilization", "%", percent)
        yield self._chart("power", "Power", "W", self._curves("GPU {}", lambda r: _scaled(r.get("power_mw"), milli)))

    def _curves(self, label: str, value: Any) -> tuple[Curve, ...]:
        made = (
            Curve(label=label.format(number), y=tuple(value(rows.get(uuid, {})) for rows in self.rows))
            for number, uuid in enumerate(self.uuids)
        )
        return tuple(curve for curve in made if any(y is not None for y in curve.y))

    def _chart(self, name: str, title: str, unit: str, curves: tuple[Curve, ...]) -> Chart | None:
        if not curves:
            return None
        order = sorted(range(len(self.x)), key=self.x.__getitem__)
        chart = Chart(
            id=name,
            title=title,
            unit=unit,
            x_label="seconds since the run began",
            x=tuple(self.x[at] for at in order),
            curves=tuple(Curve(label=one.label, y=tuple(one.y[at] for at in order)) for one in curves),
            readings=len(order),
        )
        return _thinned(chart)


def _listed(row: Mapping[str, Any], factor: float) -> Number:
    if row.get("processes") is None:
        return None  # the platform hides them: not zero
    used = [_number(process.get("used_bytes")) for process in _mappings(row.get("processes"))]
    return None if any(one is None for one in used) else round(sum(one or 0 for one in used) * factor, 4)


def _steps(observations: Sequence[Observation], begin: float) -> Chart | None:
    """Steps over time, by the processes' own word: the furthest of a role's processes."""
    points: dict[str, list[tuple[float, float]]] = {}
    for one in observations:
        if one.kind == "hook" and one.data.get("record") == "times" and one.data.get("role") in _ROLES:
            pairs = one.data.get("times")
            for pair in pairs if isinstance(pairs, list) else ():
                step, t = (
                    (_number(part) for part in pair) if isinstance(pair, list) and len(pair) == 2 else (None, None)
                )
                if step is not None and t is not None:
                    points.setdefault(str(one.data["role"]), []).append((t - begin, step))
    if not points:
        return None
    x = sorted({t for role in points.values() for t, _ in role})
    curves = []
    for role, pairs in points.items():
        at: dict[float, float] = {}
        for t, step in pairs:
            at[t] = max(step, at.get(t, step))
        curves.append(Curve(label=_ROLES[role], y=tuple(at.get(t) for t in x)))
    chart = Chart(
        id="steps",
        title="Optimizer steps, by the processes' own word",
        unit="",
        x_label="seconds since the run began",
        x=tuple(round(t, 4) for t in x),
        curves=tuple(curves),
        readings=len(x),
        stepped=True,
    )
    return _thinned(chart, last=True)


def _spans(observations: Sequence[Observation], begin: float) -> Iterable[Span]:
    started: dict[str, float] = {}
    phases = [one for one in observations if one.kind == "phase"]
    for one in observations:
        role = str(one.data.get("role"))
        if one.kind == "child.start":
            started[role] = one.t_mono
        elif one.kind == "child.exit" and role in started and role in _ROLES and not phases:
            yield Span(label=_ROLES[role], begin_s=started[role] - begin, end_s=one.t_mono - begin)
    for one in phases:
        name, seconds = one.data.get("name"), _number(one.data.get("seconds"))
        if name in _PHASES and seconds is not None:
            end = one.t_mono - begin
            yield Span(label=str(name), begin_s=max(end - max(seconds, 0.0), 0.0), end_s=end)


def _thinned(chart: Chart, *, last: bool = False) -> Chart:
    """At most so many points: of each group the greatest value, or the ``last`` one for what only grows or falls."""
    size = math.ceil(len(chart.x) / _MAX_POINTS)
    if size <= 1:
        return chart
    groups = range(0, len(chart.x), size)

    def one_of(values: Sequence[Number]) -> Number:
        read = [value for value in values if value is not None]
        return None if not read else read[-1] if last else max(read)

    return Chart(
        id=chart.id,
        title=chart.title,
        unit=chart.unit,
        x_label=chart.x_label,
        x=tuple(chart.x[at] for at in groups),
        curves=tuple(
            Curve(label=one.label, y=tuple(one_of(one.y[at : at + size]) for at in groups)) for one in chart.curves
        ),
        readings=chart.readings,
        grouped=size,
        stepped=chart.stepped,
    )


def _time(one: Observation) -> float:
    said = _number(one.data.get("t_mono"))
    return one.t_mono if said is None else said


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e15 and math.isfinite(value) else None


def _scaled(value: object, factor: float) -> Number:
    number = _number(value)
    return None if number is None else round(number * factor, 4)


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
