"""A kineto of a few lines: it records the kernels that :mod:`torch.cuda` pretends to launch while it runs.

As the real one does, it refuses to be started twice, and answers with events whose times are nanoseconds since the
epoch. ``how["kernels"]``: ``none`` records nothing at all, ``no-cupti`` has no CUDA activity.
"""

from __future__ import annotations

import enum
import itertools
import time
from dataclasses import dataclass

how = {"kernels": "all"}
running: list[list[Event]] = []  # the events of the session that runs; at most one
prepared: list[object] = []
_number = itertools.count(1)


class ProfilerActivity(enum.Enum):
    CPU = 0
    CUDA = 2


class DeviceType(enum.Enum):
    CPU = 0
    CUDA = 1


@dataclass(kw_only=True)
class Event:
    told_name: str
    device: DeviceType
    index: int
    start: int
    duration: int
    correlation: int

    def name(self) -> str:
        return self.told_name

    def device_type(self) -> DeviceType:
        return self.device

    def device_index(self) -> int:
        return self.index

    def start_ns(self) -> int:
        return self.start

    def duration_ns(self) -> int:
        return self.duration

    def correlation_id(self) -> int:
        return self.correlation


def launch(name: str, index: int = 0, *, duration_ns: int = 20_000, graph: int = 0) -> None:
    """A call of the host and the kernel (or the ``graph`` many) it makes the device run."""
    if not running or how["kernels"] == "none":
        return
    now, number, cpu, gpu = time.time_ns(), next(_number), DeviceType.CPU, DeviceType.CUDA
    call = "cudaGraphLaunch" if graph else "cudaLaunchKernel"
    running[0].append(Event(told_name=call, device=cpu, index=0, start=now, duration=5_000, correlation=number))
    for place in range(graph or 1):
        began = now + 6_000 + place * duration_ns
        event = Event(told_name=name, device=gpu, index=index, start=began, duration=duration_ns, correlation=number)
        running[0].append(event)


def kineto_available() -> bool:
    return True


def _supported_activities() -> set[ProfilerActivity]:
    return {ProfilerActivity.CPU} if how["kernels"] == "no-cupti" else set(ProfilerActivity)


def _prepare_profiler(config: object, activities: object) -> None:
    if how["kernels"] == "broken":
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")
    prepared.append(config)


def _enable_profiler(config: object, activities: object) -> None:
    if running:
        raise RuntimeError("Profiler is already enabled on this thread")
    running.append([])


class _Result:
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def events(self) -> list[Event]:
        return self._events


def _disable_profiler() -> _Result:
    if not running:
        raise RuntimeError("Can't disable Kineto profiler when it's not running")
    return _Result(running.pop())


class profile:  # noqa: N801 - torch's name
    def __init__(self, *, use_kineto: bool) -> None:
        self.kineto_activities = {ProfilerActivity.CPU}

    def _prepare_trace(self) -> None:
        _prepare_profiler(None, self.kineto_activities)

    def _start_trace(self) -> None:
        _enable_profiler(None, self.kineto_activities)

    def __enter__(self) -> profile:
        self._prepare_trace()
        self._start_trace()
        return self

    def __exit__(self, *_what: object) -> None:
        self.kineto_results = _disable_profiler()
