"""Witness W5: which kernels ran on the GPU during a few training steps, by torch's own profiler (kineto on CUPTI).

Contract: as :mod:`ongpu_witness`, which calls it after every optimizer step where a trace was asked for. Exactly one
record ``trace`` a process: a digest of bounded size, or why there is none. It waits until the program is warm, traces
``wanted`` steps, and leaves the profiler for good. Where the program uses the profiler itself, it stands back at once.

What it costs stands in docs/reliability.md: the traced steps are slower where a program is bound by its launches, the
device is waited for before and after them, CUPTI stays loaded. It launches one kernel of its own at the end of the
window, a sleep of microseconds: a trace without even that one recorded nothing, and then says nothing about the
program either.
"""

# ruff: noqa: PLC0415 - imports wait until they are needed: this runs at the start of every Python of the tree

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # for type checkers alone: typing is an import too many at start-up
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

# Steps before the window: libraries are loaded, algorithms chosen, graphs recorded in them.
WARM_UP_STEPS = 5
MINIMUM_STEPS = 2
# As many of the steps as fit in it, and at least two: what is recorded is held in memory, and read in one pause.
WINDOW_S = 10.0
MAX_EVENTS = 500_000  # looked at; some two seconds of the program's time
MAX_NAMES = 10
MAX_NAME = 160
OUR_KERNEL = "spin_kernel"  # torch.cuda._sleep
_NO_KERNELS = ("Memcpy", "Memset")
_NO_WORK = ("gpu_user_annotation", "cuda_sync")
_PROFILER = "torch.autograd.profiler"
_GRAPHS = "torch.cuda.graphs"


class Trace:
    """One process' window. ``write`` takes the record's fields; it is called once."""

    def __init__(self, write: Callable[..., None], wanted: int) -> None:
        self._write = write
        self._wanted = wanted
        self._done = False
        self._undo: list[Callable[[], None]] = []
        self._watching = False
        self._calling = False
        self._theirs = False
        self._window: _Window | None = None
        self._replays: int | None = None
        self._steps = 0
        self._at = 0.0
        self._on_cuda = False

    # -- what the witness tells --------------------------------------------------------------------------------

    def watch(self) -> None:
        """Notice from now on when the program starts torch's profiler itself."""
        profiler = sys.modules.get(_PROFILER)
        if self._done or self._watching or profiler is None:
            return
        self._watching = True
        for name in ("_prepare_profiler", "_enable_profiler"):
            original = getattr(profiler, name, None)
            if original is not None:
                self._replace(profiler, name, self._noticing(original))

    def step(self, number: int, devices: Iterable[str]) -> None:
        """An optimizer made a step, the process' ``number``-th; ``devices`` are those it was seen to train on."""
        self._steps = number
        if not self._done:
            self._guarded(lambda: self._step(number, sorted(devices)))

    def end(self) -> None:
        """The process is about to leave: no window is begun or completed any more."""
        if self._done:
            return
        if self._window is not None:
            reason = "the process ended within the %d steps to be traced" % self._wanted  # noqa: UP031 - Python 3.9 reads it either way
        elif self._theirs:
            reason = "the program uses torch's profiler itself"
        elif self._on_cuda:
            steps = (self._steps, self._wanted, WARM_UP_STEPS)
            reason = "%d steps are too few: %d are traced after the first %d" % steps  # noqa: UP031 - as above
        else:
            reason = "no step on CUDA was seen"
        self._guarded(self._abandon)
        if not self._done:
            self._say("unavailable", reason=reason)

    def drop(self) -> None:
        """Say nothing more: a forked child begins anew."""
        self._done = True
        self._window = None
        self._take_off()

    # -- the steps ---------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a witness never breaks the program it watches
            self._window = None
            self._say("error", code=type(error).__name__, reason=str(error)[:300])

    def _step(self, number: int, devices: list[str]) -> None:
        self.watch()
        cuda = sys.modules.get("torch.cuda")
        if cuda is None or not devices or not cuda.is_initialized():
            return
        self._on_cuda = True
        if cuda.is_current_stream_capturing():
            self._follow_replays(devices)
        elif self._replays is None:
            self._advance(number, devices)

    def _advance(self, number: int, devices: list[str]) -> None:
        window, now = self._window, time.monotonic()
        took, self._at = now - self._at if self._at else None, now
        if window is None:
            if took is not None and number >= (WARM_UP_STEPS if self._replays is None else 2):
                self._begin(number, devices, took)
        elif window.here():
            window.mark()
            if window.marked >= window.wanted:
                self._window = None
                with self._ours():
                    told = window.close()
                told["unit"] = "step" if self._replays is None else "replay"
                self._say("traced", **told)

    def _begin(self, number: int, devices: list[str], took: float) -> None:
        wanted = min(self._wanted, int(WINDOW_S / max(took, 1e-6)))
        profiler = sys.modules.get(_PROFILER)
        if profiler is None or not profiler.kineto_available():
            self._say("unavailable", reason="this torch was built without its profiler, kineto")
        elif profiler.ProfilerActivity.CUDA not in profiler._supported_activities():
            self._say("unavailable", reason="this torch was built without CUPTI")
        elif self._theirs or sys.modules["torch"].autograd._profiler_enabled():
            self._say("unavailable", reason="the program uses torch's profiler itself")
        elif wanted < MINIMUM_STEPS:
            self._say("unavailable", reason=f"a step of {took:.1f} s is too long to trace {MINIMUM_STEPS}")
        else:
            with self._ours():
                self._window = _Window(profiler, number, devices, wanted)

    def _abandon(self) -> None:
        """Give the profiler back without looking: at the exit, or for the program that wants it."""
        window, self._window = self._window, None
        if window is not None and window.here():
            with self._ours():
                window.leave()

    def _follow_replays(self, devices: list[str]) -> None:
        """The step is being recorded as a CUDA graph: from now on its replays are what there is to trace."""
        graphs = sys.modules.get(_GRAPHS)
        if graphs is None or self._replays is not None:
            return
        self._replays = 0
        original = graphs.CUDAGraph.replay
        stale = self._window  # begun before the recording: closed at the first replay, outside of it

        def replay(graph: Any) -> Any:
            result = original(graph)
            if not self._done:
                self._guarded(lambda: self._replayed(devices, stale))
            return result

        self._replace(graphs.CUDAGraph, "replay", replay)

    def _replayed(self, devices: list[str], stale: _Window | None) -> None:
        cuda = sys.modules["torch.cuda"]
        if cuda.is_current_stream_capturing():
            return
        if stale is not None and self._window is stale:
            self._abandon()
        self._replays = (self._replays or 0) + 1
        self._advance(self._replays, devices)

    # -- living beside the program -----------------------------------------------------------------------------

    def _noticing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def theirs(*args: Any, **kwargs: Any) -> Any:
            if not self._calling and not self._done:
                self._theirs = True
                if self._window is not None:
                    self._guarded(self._abandon)
                    self._say("unavailable", reason="the program uses torch's profiler itself")
            return original(*args, **kwargs)

        return theirs

    def _ours(self) -> _Calling:
        return _Calling(self)

    def _replace(self, owner: Any, name: str, new: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        def undo() -> None:
            if getattr(owner, name, None) is new:
                setattr(owner, name, original)

        setattr(owner, name, new)
        self._undo.append(undo)

    def _say(self, state: str, **fields: Any) -> None:
        if self._done:
            return
        self._done = True
        self._take_off()
        self._write(state=state, wanted=self._wanted, **fields)

    def _take_off(self) -> None:
        undo, self._undo = self._undo, []
        for one in reversed(undo):
            one()


class _Calling:
    """While it is entered, calls of the profiler are ours."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        self._trace._calling = True

    def __exit__(self, *_what: object) -> None:
        self._trace._calling = False


class _Window:
    """The profiler, running; from the end of one step to the end of a later one."""

    def __init__(self, profiler: Any, number: int, devices: list[str], wanted: int) -> None:
        import _thread

        began = time.perf_counter()
        self.wanted = wanted
        self._profiler = profiler
        self._first = number + 1
        self._devices = devices
        self._me = _thread.get_ident()
        self._thread = _thread.get_ident
        self._synchronize()
        made = profiler.profile(use_kineto=True)
        made.kineto_activities = {profiler.ProfilerActivity.CUDA}  # the same attribute since torch 2.0
        quiet = os.environ.get("KINETO_LOG_LEVEL")
        if quiet is None:
            os.environ["KINETO_LOG_LEVEL"] = "99"  # kineto reads it once, and would write to the program's stderr
        try:
            made._prepare_trace()
            made._start_trace()
        finally:
            if quiet is None:
                del os.environ["KINETO_LOG_LEVEL"]
            # Only Python code reads this flag, to annotate what the program does: that must not change.
            getattr(profiler, "_run_on_profiler_stop", lambda: None)()
        self._cost_s = time.perf_counter() - began
        self._t_began = time.monotonic()
        self._marks = [time.time_ns()]

    def here(self) -> bool:
        """Whether this is the thread that began: the profiler can only be left where it was entered."""
        return bool(self._thread() == self._me)

    def mark(self) -> None:
        """A step ended."""
        self._marks.append(time.time_ns())

    @property
    def marked(self) -> int:
        """How many steps have ended within it."""
        return len(self._marks) - 1

    def leave(self) -> Any:
        """Stop the profiler; what it recorded."""
        return self._profiler._disable_profiler()

    def close(self) -> dict[str, Any]:
        """Stop the profiler and digest what it recorded."""
        self._synchronize()
        t_ended, ended_ns = time.monotonic(), time.time_ns()
        began = time.perf_counter()
        cuda = sys.modules["torch.cuda"]
        with cuda.device(int(self._devices[0].partition(":")[2] or 0)):
            cuda._sleep(1000)
        self._synchronize()
        told = digest(self.leave().events(), self._marks, ended_ns, first=self._first)
        self._cost_s += time.perf_counter() - began
        told.update(t_began=round(self._t_began, 6), t_ended=round(t_ended, 6), cost_s=round(self._cost_s, 6))
        return told

    def _synchronize(self) -> None:
        for device in self._devices:
            sys.modules["torch.cuda"].synchronize(int(device.partition(":")[2] or 0))


def digest(events: Any, marks: list[int], ended_ns: int, *, first: int) -> dict[str, Any]:
    """What kineto's events say of the steps between ``marks`` (nanoseconds since the epoch, one more than steps).

    A kernel belongs to the step in which the host launched it, found by the correlation number of the call that did.
    """
    kernels, launched = [], {}
    launches = graph_launches = 0
    for event in events[:MAX_EVENTS]:
        name, began = event.name(), _nanoseconds(event, "start")
        if event.device_type().name == "CUDA":
            if getattr(event, "activity_type", str)() not in _NO_WORK:
                kernels.append(
                    (began, _nanoseconds(event, "duration"), event.device_index(), event.correlation_id(), name)
                )
        elif "Launch" in name:
            launched[event.correlation_id()] = began
            launches += 1
            graph_launches += "GraphLaunch" in name
    control = False
    counts, busy = [0] * (len(marks) - 1), [0] * (len(marks) - 1)
    unplaced = copies = 0
    spans: dict[int, list[tuple[int, int]]] = {}
    of_device: dict[int, int] = {}
    names: dict[str, list[int]] = {}
    for began, duration, index, correlation, name in sorted(kernels):
        if OUR_KERNEL in name and launched.get(correlation, began) >= ended_ns:
            control = True
            continue
        spans.setdefault(index, []).append((began, began + duration))
        if name.startswith(_NO_KERNELS):
            copies += 1
            continue
        of_device[index] = of_device.get(index, 0) + 1
        found = names.setdefault(name[:MAX_NAME], [0, 0])
        found[0] += 1
        found[1] += duration
        place = _place(marks, launched.get(correlation))
        if place is None:
            unplaced += 1
        else:
            counts[place] += 1
            busy[place] += duration
    ordered = sorted(names.items(), key=lambda one: -one[1][1])[:MAX_NAMES]
    return {
        "steps": [[first + place, counts[place], busy[place]] for place in range(len(counts))],
        "unplaced": unplaced,
        "copies": copies,
        "launches": launches,
        "graph_launches": graph_launches,
        "on_devices": [_on_device(index, of_device.get(index, 0), spans[index]) for index in sorted(spans)],
        "names": len(names),
        "kernels": [{"name": name, "count": count, "device_ns": total} for name, (count, total) in ordered],
        "control": control,
        "truncated": len(events) > MAX_EVENTS,
    }


def _on_device(index: int, kernels: int, spans: list[tuple[int, int]]) -> dict[str, Any]:
    return {"device": "cuda:" + str(index), "kernels": kernels, "busy_ns": _union(spans)}


def _nanoseconds(event: Any, what: str) -> int:
    """``start`` or ``duration`` of a kineto event; before torch 2.3 it told microseconds."""
    exact = getattr(event, what + "_ns", None)
    return int(exact()) if exact is not None else int(getattr(event, what + "_us")()) * 1000


def _place(marks: list[int], launched: int | None) -> int | None:
    """In which step the host made that call; ``None`` where no call was recorded, or outside of all."""
    if launched is None:
        return None
    import bisect

    place = bisect.bisect_right(marks, launched) - 1
    return place if 0 <= place < len(marks) - 1 else None


def _union(spans: Iterable[tuple[int, int]]) -> int:
    """Nanoseconds covered by at least one of the spans."""
    return sum(end - begin for begin, end in _merged(sorted(spans)))


def _merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at: tuple[int, int] | None = None
    for begin, end in spans:
        if at is None:
            at = (begin, end)
        elif begin <= at[1]:
            at = (at[0], max(at[1], end))
        else:
            yield at
            at = (begin, end)
    if at is not None:
        yield at
