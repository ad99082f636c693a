"""Witness W1: what a training process says of itself, without a change to it.

Contract: runs inside the user's process, under the user's Python and torch (Python 3.9+, torch 2.0+); imports
nothing of ongpu and never imports torch; ``ongpu_hook`` has torch call it after every optimizer step. Records are
JSON lines in a file of this process' own in the folder it was given; ``ongpu.domain.witness`` documents each. It
never initializes CUDA, never synchronizes, never raises into the program: what fails becomes an ``error`` record.

What it costs: every step a walk over the parameters that asks ``is_cuda`` (tens of nanoseconds each) and one
clock reading; the first five steps of each optimizer, and then at most once a second (less often in long runs, and
where the model is so large that a sample costs more than 1/500 of the time between), a full sample. A process that
trained on CUDA for less than 0.4 s stays that long before it exits.
"""

# ruff: noqa: PLC0415 - imports wait until they are needed: this runs at the start of every Python of the tree

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False  # for type checkers alone: typing is an import too many at start-up
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FIRST_STEPS = 5  # sampled in full, each
SAMPLE_INTERVAL_S = 1.0
SAMPLE_SHARE = 500  # a sample may cost 1/500 of the time to the next one
TIMES_INTERVAL_S = 0.005  # step times closer together than this are thinned
# All grow with the run, so that a week's records stay small (4 MB in a journal): after five minutes a sample, and a
# line of times, at most every elapsed / 300.
SAMPLES_GROW = 300
TIMES_GROW = 4000
# A training shorter than this stays a little at its exit, so that the driver can be asked while it holds its memory.
SEEN_S = 0.4
MAX_ERRORS = 5
MAX_WARNINGS = 20
MAX_TEXT = 2000


def _start_time() -> float | None:
    """Start of this process in seconds since boot (Linux), else None."""
    try:
        with open("/proc/self/stat", "rb") as stat:  # noqa: PTH123 - start-up: no pathlib
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        return round(ticks / os.sysconf("SC_CLK_TCK"), 2)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _whole(name: str) -> int | None:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return None


def _tensors(value: Any, depth: int = 0) -> Iterator[Any]:
    """Every tensor-like thing in an optimizer's state entry, two levels deep (LBFGS keeps lists)."""
    if hasattr(value, "is_cuda") and hasattr(value, "numel"):
        yield value
    elif depth < 3:
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, (list, tuple)):
            return
        for item in value:
            yield from _tensors(item, depth + 1)


class _Bytes:
    """Bytes by device, ``{"cuda:0": 1234, "cpu": 8}``."""

    def __init__(self) -> None:
        self.by_device: dict[str, int] = {}

    def add(self, tensor: Any) -> None:
        local = getattr(tensor, "_local_tensor", tensor)  # DTensor: what this process holds
        device = str(local.device)
        self.by_device[device] = self.by_device.get(device, 0) + local.numel() * local.element_size()


class _Stepper:
    """What is known of one optimizer."""

    __slots__ = ("index", "last", "name", "next_sample", "off", "off_steps", "ref", "sampled_step", "steps")

    def __init__(self, index: int, optimizer: Any, ref: Any) -> None:
        self.index = index
        self.name = type(optimizer).__name__[:100]
        self.ref = ref
        self.steps = 0
        self.off_steps = 0
        self.off = False
        self.last: tuple[int, int, int, int, int] | None = None
        self.next_sample = 0.0
        self.sampled_step = 0


class Witness:
    """The records of one process.

    :param new_trace: makes the process' kernel trace (``ongpu_trace.Trace``), given what writes its record.
    """

    def __init__(self, folder: str, new_trace: Callable[[Callable[..., None]], Any] | None = None) -> None:
        import weakref

        self._folder = folder
        self._weak = weakref
        self._new_trace = new_trace
        self.trace: Any = None
        self.forget()

    def forget(self) -> None:
        """Begin anew: at the start, and in a forked child, whose steps are its own."""
        self._fd: int | None = None
        self._dead = False
        self._n = 0
        self._errors = 0
        self._warnings = 0
        self._steppers: Any = self._weak.WeakKeyDictionary()
        self._order: list[_Stepper] = []
        self.created = 0
        self._steps = 0
        self._times: list[tuple[int, float]] = []
        self._times_at = 0.0
        self._began: float | None = None
        self._flush_at = 0.0
        self._ended = False
        self._closing = False
        self._sampled_devices: set[str] = set()
        if self._new_trace is not None:
            if self.trace is not None:
                self.trace.drop()
            self.trace = self._new_trace(self._write_trace)

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, record: str, **fields: Any) -> None:
        """Append one record; the first one opens the file."""
        if self._dead:
            return
        if self._fd is None:
            name = "hook-%d-%d.jsonl" % (os.getpid(), time.monotonic_ns())  # noqa: UP031 - Python 3.9 reads it either way
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            try:
                self._fd = os.open(os.path.join(self._folder, name), flags, 0o600)  # noqa: PTH118 - start-up: no pathlib
            except OSError:
                self._dead = True  # the folder is gone: the run is over, or this process outlived it
                return
        line = {"record": record, "n": self._n, "pid": os.getpid(), "t_mono": round(time.monotonic(), 6)}
        line.update(fields)
        try:
            os.write(self._fd, json.dumps(line, allow_nan=False).encode() + b"\n")
        except OSError:
            self._dead = True
            return
        self._n += 1

    def _write_trace(self, **fields: Any) -> None:
        """The trace's one record; a device it names is described as in a sample."""
        for row in fields.get("on_devices", ()):
            row["uuid"] = self._device(self._cuda(), row["device"])["uuid"]
        self.write("trace", **fields)

    def fail(self, where: str, error: Exception) -> None:
        """Say that something failed in here, and go on."""
        self._errors += 1
        if self._errors <= MAX_ERRORS:
            try:
                self.write("error", where=where, type=type(error).__name__, text=str(error)[:MAX_TEXT])
            except Exception:  # noqa: BLE001 - a witness never breaks the program it watches
                self._dead = True

    def warn(self, text: str) -> None:
        """Keep a warning about the GPU's compute capability."""
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            self.write("warning", text=text[:MAX_TEXT])

    # -- what torch tells ----------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Who this process is, and which torch it runs."""
        torch = sys.modules["torch"]
        version = sys.modules.get("torch.version")
        self.write(
            "torch",
            ppid=os.getppid(),
            start_time=_start_time(),
            version=str(getattr(torch, "__version__", None) or getattr(version, "__version__", "?")),
            cuda=getattr(version, "cuda", None),
            hip=getattr(version, "hip", None),
            python=sys.version.split()[0],
            rank=_whole("RANK"),
            world_size=_whole("WORLD_SIZE"),
        )

    # -- a step --------------------------------------------------------------------------------------------

    def step(self, optimizer: Any) -> None:
        """One optimizer step is done: its gradients are still there, its state exists."""
        now = time.monotonic()
        if self._n == 0:
            self.introduce()  # a forked child that trains
        stepper = self._steppers.get(optimizer)
        if stepper is None:
            stepper = self._meet(optimizer)
        stepper.steps += 1
        self._steps += 1
        parameters = on_cuda = gradients = gradients_on_cuda = 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.is_leaf:
                    parameters += 1
                    if parameter.is_cuda:
                        on_cuda += 1
                    gradient = parameter.grad
                    if gradient is not None:
                        gradients += 1
                        if gradient.is_cuda:
                            gradients_on_cuda += 1
        off = parameters != on_cuda or gradients != gradients_on_cuda
        stepper.off_steps += off
        stepper.last = (stepper.steps, on_cuda, parameters, gradients_on_cuda, gradients)
        if self._began is None:
            self._began = now
        if now - self._times_at >= max(TIMES_INTERVAL_S, (now - self._began) / TIMES_GROW):
            self._times.append((self._steps, round(now, 6)))
            self._times_at = now
        if stepper.steps <= FIRST_STEPS or now >= stepper.next_sample or off != stepper.off:
            stepper.off = off
            self.sample(optimizer, stepper, now)
        if now >= self._flush_at:
            self._flush(now)
        if self.trace is not None:
            self.trace.step(self._steps, self._sampled_devices)

    def _meet(self, optimizer: Any) -> _Stepper:
        stepper = _Stepper(len(self._order), optimizer, self._weak.ref(optimizer))
        self._steppers[optimizer] = stepper
        self._order.append(stepper)
        if not self._closing:
            self._closing = True
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # children of multiprocessing leave by os._exit, past atexit
                util.Finalize(None, self.end, exitpriority=100)
        return stepper

    def _flush(self, now: float) -> None:
        self._flush_at = now + max(SAMPLE_INTERVAL_S, (now - (self._began or now)) / SAMPLES_GROW)
        if self._times:
            times, self._times = self._times, []
            self.write("times", times=times)

    def sample(self, optimizer: Any, stepper: _Stepper, now: float, *, final: bool = False) -> None:
        """Where the bytes of parameters, gradients and state are, now."""
        parameters, gradients, state, scalars = _Bytes(), _Bytes(), _Bytes(), 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.is_leaf:
                    parameters.add(parameter)
                    if parameter.grad is not None:
                        gradients.add(parameter.grad)
        for entry in optimizer.state.values():
            for tensor in _tensors(entry):
                if tensor.dim() == 0:
                    scalars += 1  # Adam's step counters live on the host by default, and are no work
                else:
                    state.add(tensor)
        held = (parameters, gradients, state)
        used = sorted({device for kind in held for device in kind.by_device if device.startswith("cuda")})
        cuda = self._cuda()
        self._sampled_devices.update(used)
        stepper.sampled_step = stepper.steps
        self.write(
            "step",
            step=self._steps,
            optimizer=stepper.index,
            optimizer_class=stepper.name,
            optimizer_step=stepper.steps,
            final=final,
            parameters=parameters.by_device,
            gradients=gradients.by_device,
            state=state.by_device,
            scalars_excluded=scalars,
            devices=[self._device(cuda, device) for device in used] if cuda else [],
        )
        cost = time.monotonic() - now
        elapsed = now - (self._began or now)
        stepper.next_sample = now + max(SAMPLE_INTERVAL_S, elapsed / SAMPLES_GROW, SAMPLE_SHARE * cost)

    # -- CUDA, only where the program has initialized it ------------------------------------------------------

    def _cuda(self) -> Any:
        cuda = sys.modules.get("torch.cuda")
        return cuda if cuda is not None and cuda.is_initialized() else None

    def _device(self, cuda: Any, device: str) -> dict[str, Any]:
        index = int(device.partition(":")[2] or 0)
        properties = cuda.get_device_properties(index)
        uuid = getattr(properties, "uuid", None)
        told = {
            "device": device,
            "uuid": None if uuid is None else ("" if str(uuid).startswith(("GPU-", "MIG-")) else "GPU-") + str(uuid),
            "name": properties.name,
            "compute_capability": "%d.%d" % (properties.major, properties.minor),  # noqa: UP031 - as above
        }
        try:
            stats = cuda.memory_stats(index)
            told["allocated_bytes"] = stats.get("allocated_bytes.all.current")
            told["reserved_bytes"] = stats.get("reserved_bytes.all.current")
            told["max_reserved_bytes"] = stats.get("reserved_bytes.all.peak")
        except Exception as error:  # noqa: BLE001 - a pluggable allocator has no statistics
            told["memory_reason"] = "%s: %s" % (type(error).__name__, str(error)[:200])  # noqa: UP031 - as above
        return told

    # -- the end -------------------------------------------------------------------------------------------

    def _stay_seen(self) -> float:
        now = time.monotonic()
        if self._began is not None and self._cuda() is not None and now - self._began < SEEN_S:
            time.sleep(SEEN_S - (now - self._began))
        return time.monotonic()

    def end(self) -> None:
        """The last record: how often each optimizer stepped, and on what."""
        if self._ended or self._n == 0:
            return  # a forked child that never stepped has nothing to say
        self._ended = True
        try:
            now = self._stay_seen()
            self._flush(now)
            for stepper in self._order:
                optimizer = stepper.ref()
                if optimizer is not None:
                    self.sample(optimizer, stepper, now, final=True)
            if self.trace is not None:
                self.trace.end() if self._steps else self.trace.drop()
            cuda = self._cuda()
            self.write(
                "end",
                devices=[self._device(cuda, device) for device in sorted(self._sampled_devices)] if cuda else [],
                steps=self._steps,
                created=self.created,
                never_stepped=max(0, self.created - len(self._order)),
                cuda_initialized=cuda is not None,
                is_available=bool(cuda.is_available()) if cuda else None,
                optimizers=[
                    {
                        "optimizer": one.index,
                        "optimizer_class": one.name,
                        "steps": one.steps,
                        "off_cuda_steps": one.off_steps,
                        "last_sampled_step": one.sampled_step,
                        "last": {
                            "step": one.last[0],
                            "parameters_on_cuda": one.last[1],
                            "parameters": one.last[2],
                            "gradients_on_cuda": one.last[3],
                            "gradients": one.last[4],
                        }
                        if one.last
                        else None,
                    }
                    for one in self._order
                ],
                errors=self._errors,
                records=self._n + 1,
            )
        except Exception as error:  # noqa: BLE001 - a witness never breaks the program it watches
            self.fail("end", error)
