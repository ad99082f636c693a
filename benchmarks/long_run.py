"""A training of days, watched in a minute: does its journal stay in bounds, and is it judged from first to last?

    python benchmarks/long_run.py [--hours 168] [--gpus 1] [--moving] [--step 1.0]

The real sampler, hook, journal, seal and checker, with the clocks and NVML in their place: one process a GPU makes a
step every ``--step`` seconds (one that trains faster writes no more: the hook's rate is by the clock). With
``--moving`` the driver's figures move by 64 MiB every second, so that every reading says something new; half way, a
second process of the tree comes and goes every minute for an hour. Prints one JSON document; leaves with 1 unless the
verdict is proven and the bundle accepted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import resource
import sys
import tempfile
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

from ongpu.domain.arch import ComputeCapability
from ongpu.evidence.check import check
from ongpu.evidence.journal import Journal
from ongpu.evidence.recompute import recompute
from ongpu.evidence.seal import new_start, seal
from ongpu.guard.here import _load
from ongpu.guard.records import HookTail
from ongpu.guard.sampler import Sampler
from ongpu.guard.tree import Member, Watched
from ongpu.machine.nvml import NvmlDevice, ProcessMemory, ProcessUtilization

GIB, MIB = 1 << 30, 1 << 20
ROOT_PID = 4000
BEGAN = 1000.0


class Time:
    """A clock that only moves when it is told to; it stands in for the module ``time`` too."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def monotonic_ns(self) -> int:
        """Nanoseconds."""
        return int(self.now * 1e9)

    def mono_s(self) -> float:
        """Seconds."""
        return self.now

    def time(self) -> float:
        """Seconds since the epoch."""
        return 1.76e9 + self.now

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return self.time()

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds


def uuid_of(index: int) -> str:
    """The UUID of a pretended GPU."""
    return f"GPU-99999999-2222-4333-8444-{index:012d}"


class PretendedNvml:
    """A driver whose GPUs are held by one process each, from the moment the training begins."""

    def __init__(self, clock: Time, *, gpus: int, moving: bool) -> None:
        self._clock, self._gpus, self._moving = clock, gpus, moving
        self.training = False

    def kernel_mode_version(self) -> str:
        """A version."""
        return "580.159.04"

    def devices(self) -> tuple[NvmlDevice, ...]:
        """Every pretended GPU."""
        return tuple(
            NvmlDevice(
                index=index,
                uuid=uuid_of(index),
                name="NVIDIA H100 80GB HBM3",
                memory_bytes=80 * GIB,
                compute_capability=ComputeCapability(9, 0),
                pci_bus_id=None,
                mig=False,
            )
            for index in range(self._gpus)
        )

    def close(self) -> None:
        """Nothing to shut down."""
        return

    def _used(self) -> int:
        return 40 * GIB + 600 * MIB + (64 * MIB * (int(self._clock.now) % 3) if self._moving else 0)

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        """The one process of a GPU."""
        return (ProcessMemory(pid=ROOT_PID + int(uuid[-12:]), used_bytes=self._used()),) if self.training else ()

    def memory_used(self, uuid: str) -> int:  # noqa: ARG002 - the door's shape
        """Memory of the device."""
        return 500 * MIB + (self._used() if self.training else 0)

    def utilization(self, uuid: str) -> int:  # noqa: ARG002 - the door's shape
        """Busy while it trains."""
        return 97 if self.training else 0

    def power_mw(self, uuid: str) -> int:  # noqa: ARG002 - the door's shape
        """Power, a little different each second."""
        return 600_000 + int(self._clock.now) % 50_000 if self.training else 90_000

    def energy_mj(self, uuid: str) -> int:  # noqa: ARG002 - the door's shape
        """The counter."""
        return int(self._clock.now * (600_000 if self.training else 90_000))

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:  # noqa: ARG002 - the door's shape
        """The process that uses the SMs."""
        pid, at_us = ROOT_PID + int(uuid[-12:]), int(self._clock.time() * 1e6)
        return (ProcessUtilization(pid=pid, sm_percent=97, at_us=at_us),) if self.training else ()


class Tensor:
    """Bytes on a device, as the hook asks for them."""

    def __init__(self, device: str) -> None:
        self.device, self.requires_grad, self.is_leaf, self.is_cuda = device, True, True, True
        self.grad: Tensor | None = None

    def numel(self) -> int:
        """Elements."""
        return 1 << 28

    def element_size(self) -> int:
        """Bytes of one."""
        return 4

    def dim(self) -> int:
        """Dimensions."""
        return 1


class Optimizer:
    """An optimizer of two tensors."""

    def __init__(self, device: str) -> None:
        weight = Tensor(device)
        weight.grad = Tensor(device)
        self.param_groups = [{"params": [weight]}]
        self.state = {weight: {"exp_avg": Tensor(device)}}


def pretend_torch() -> None:
    """What the hook finds in ``sys.modules`` of a process that trains on CUDA."""

    def module(name: str, **parts: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(parts)
        sys.modules[name] = made
        return made

    def properties(index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(uuid=uuid_of(index)[4:], name="NVIDIA H100 80GB HBM3", major=9, minor=0)

    held = dict.fromkeys(
        ("allocated_bytes.all.current", "reserved_bytes.all.current", "reserved_bytes.all.peak"), 40 * GIB
    )
    module(
        "torch.cuda",
        is_initialized=lambda: True,
        is_available=lambda: True,
        get_device_properties=properties,
        memory_stats=lambda _index: held,
    )
    module("torch.version", cuda="13.0", hip=None, __version__="2.15.0")
    module("torch", __version__="2.15.0", version=sys.modules["torch.version"], cuda=sys.modules["torch.cuda"])


def hook_of(rank: int, ranks: int, clock: Time, folder: Path) -> Any:
    """The hook's witness of one process, with that process' pid, rank and clock."""
    module = _load("ongpu_witness")
    system = types.SimpleNamespace(**vars(os))
    system.getpid, system.getppid = (lambda: ROOT_PID + rank), (lambda: 1)
    system.environ = {"RANK": str(rank), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
    module.__dict__.update(time=clock, os=system, _start_time=lambda: BEGAN)
    return module.Witness(str(folder))


class Tree:
    """The process tree: the ranks, and for an hour half way something short-lived."""

    def __init__(self, ranks: int, clock: Time, *, seconds: float) -> None:
        self._ranks = [Member(pid=ROOT_PID + rank, ppid=1, start_time=BEGAN) for rank in range(ranks)]
        self._clock, self._busy = clock, (clock.now + seconds / 2, clock.now + seconds / 2 + 3600)

    def look(self) -> list[Member]:
        """Who is alive now."""
        now = self._clock.now
        if self._busy[0] <= now < self._busy[1] and int(now) % 60 < 5:
            return [*self._ranks, Member(pid=90_000 + int(now) // 60 % 1000, ppid=ROOT_PID, start_time=now // 60)]
        return self._ranks


class Run:
    """The supervisor's part: what the sampler and the hooks say goes into the journal; time passes as it waits."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.clock = Time()
        self.options = options
        self.journal = Journal.create(folder, clock=self.clock, redact=str)
        self.nvml = PretendedNvml(self.clock, gpus=options.gpus, moving=options.moving)
        self.hooks = folder.parent / "hooks"
        self.hooks.mkdir()
        self.tail = HookTail(self.hooks)
        self.witnesses = [hook_of(rank, options.gpus, self.clock, self.hooks) for rank in range(options.gpus)]
        self.optimizers = [Optimizer(f"cuda:{rank}") for rank in range(options.gpus)]
        self.lines = self.silent_s = 0.0
        self.heard_at = self.next_step = self.next_poll = self.clock.now
        self.end_at = self.clock.now + 3600 * options.hours
        self.burst = True

    def write(self, line: Any) -> None:
        """A line of the sampler, as the feed takes it."""
        self.silent_s = max(self.silent_s, self.clock.now - self.heard_at)
        self.heard_at = self.clock.now
        if line["kind"] != "alive":
            self.lines += 1
            self.journal.record(line["kind"], {**{k: v for k, v in line.items() if k != "kind"}, "role": "train"})

    def get(self, *, timeout: float) -> dict[str, object]:
        """What the sampler waits for: as a queue, but the wait is the training."""
        until = self.clock.now + timeout
        while self.next_step <= until:
            self.clock.now = max(self.clock.now, self.next_step)
            for witness, optimizer in zip(self.witnesses, self.optimizers, strict=True):
                witness.step(optimizer)
            self.next_step += self.options.step
        self.clock.now = until
        if self.clock.now >= self.next_poll:
            self.take_hooks()
            self.next_poll = self.clock.now + min(60.0, max(0.2, self.clock.now - 5000.0) / 10)
        if self.burst:
            self.burst = False
            return {"burst": True}
        if self.clock.now >= self.end_at:
            return {"finish": True}
        raise queue.Empty

    def take_hooks(self) -> None:
        """What the hooks wrote, into the journal."""
        for record in self.tail.poll():
            self.journal.record("hook", {**record.fields, "role": "train", "source": record.source})

    def whole(self) -> None:
        """From ``run.start`` to ``run.end``."""
        record, options = self.journal.record, self.options
        argv = ["python", "train.py"]
        record(
            "run.start", new_start(profile="run", simulated=False, tool_version="0", boot_id="x", more={"argv": argv})
        )
        devices = [{"uuid": one.uuid, "name": one.name} for one in self.nvml.devices()]
        record("machine", {"os": "linux", "devices": devices, "driver": {"loaded": True, "kernel_mode": "580.159.04"}})
        sampler = Sampler(open_nvml=lambda: self.nvml, write=self.write, now=self.clock.monotonic, wall=self.clock.time)
        sampler.baseline(1.0, sleep=self.clock.sleep)
        start = {"role": "train", "argv": argv, "pid": ROOT_PID, "start_time": BEGAN, "supervisor_pid": 1}
        record("child.start", start)
        self.nvml.training = True
        tree: Any = Tree(options.gpus, self.clock, seconds=3600 * options.hours)
        watched: Watched = tree
        commands: Any = self
        assert sampler.watch(watched, commands)
        for witness in self.witnesses:
            witness.end()
        self.take_hooks()
        sampler.end()
        ended = {"status": 0, "signal": None, "interrupted": False, "stopped": None, "stopped_reason": None}
        record("child.exit", {"role": "train", "pid": ROOT_PID, "seconds": 3600 * options.hours, **ended})
        hooks = [{"source": name, "pid": None, "records": n} for name, n in sorted(self.tail.counts.items())]
        counts = {"hooks": hooks, "hook_files_refused": 0, "sampler_lines": int(self.lines), "sampler_error": None}
        record("guard.end", {"role": "train", **counts})
        record("run.end", {"end": "completed"})


def main() -> int:
    """Run it, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=168.0)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--moving", action="store_true")
    parser.add_argument("--step", type=float, default=1.0)
    options = parser.parse_args()
    pretend_torch()
    began = time.monotonic()
    # In memory where there is such a place: the journal is synced once a second, and here a second is a millisecond.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name, "ev")
        run = Run(folder, options)
        run.whole()
        watched_s = time.monotonic() - began
        observations = run.journal.observations()
        verdict = recompute(observations)
        seal(folder, run.journal, verdict=verdict)
        started = time.monotonic()
        report = check(folder)
        checked_s = time.monotonic() - started
        size = (folder / "journal.jsonl").stat().st_size
        kinds: Counter[str] = Counter()
        for line in (folder / "journal.jsonl").read_bytes().splitlines():
            kinds[json.loads(line)["kind"]] += len(line) + 1
    times = [one.t_mono for one in observations if one.kind == "nvml.sample"]
    document = {
        "hours": options.hours,
        "gpus": options.gpus,
        "moving": options.moving,
        "journal_bytes": size,
        "records": len(observations),
        "bytes_by_kind": dict(kinds.most_common()),
        "full": any(one.kind == "journal.full" for one in observations),
        "longest_gap_between_samples_s": round(max(b - a for a, b in itertools.pairwise(times)), 1),
        "longest_silence_of_the_sampler_s": round(run.silent_s, 1),
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "witnesses": {one.name: f"{one.state.value}: {one.reason}" for one in verdict.witnesses},
        "answer": report.answer.value,
        "problems": [one.text for one in report.problems],
        "check_s": round(checked_s, 1),
        "watched_in_s": round(watched_s, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(document, indent=1))
    return 0 if document["outcome"] == "proven" and document["answer"] == "accepted" else 1


if __name__ == "__main__":
    sys.exit(main())
