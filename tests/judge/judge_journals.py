"""Journals of pretended runs, in the shapes of ``ongpu.domain.witness``: the judge's test material.

An honest run by default; every test changes the one thing it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ongpu.domain.witness import Observation

MIB = 1 << 20
GPU = "GPU-aaaaaaaa-0000-1111-2222-333333333333"
OTHER_GPU = "GPU-bbbbbbbb-0000-1111-2222-333333333333"
NAME = "NVIDIA H100 80GB HBM3"
DIGEST = "0123456789abcdef" * 4
CONTEXT = 600 * MIB

Row = tuple[str, dict[str, Any]]


@dataclass
class Trace:
    """The kernel trace of one process: three steps after the fifth, 40 kernels in each."""

    state: str = "traced"
    unit: str = "step"
    kernels: tuple[int, ...] = (40, 40, 40)
    first: int = 6
    uuid: str | None = GPU
    unplaced: int = 0
    graph_launches: int = 0
    control: bool = True
    busy_ns: int = 150_000_000
    seconds: float = 0.3
    name: str = "void gemm<float>()"

    def record(self) -> dict[str, Any]:
        """As the hook writes it, without ``t_mono``."""
        if self.state != "traced":
            return {"record": "trace", "state": self.state, "wanted": 3, "reason": "because", "code": None}
        total = sum(self.kernels) + self.unplaced
        began = 110.4
        return {
            "record": "trace",
            "state": "traced",
            "wanted": 3,
            "unit": self.unit,
            "steps": [[self.first + place, count, 50_000_000] for place, count in enumerate(self.kernels)],
            "unplaced": self.unplaced,
            "copies": 2,
            "launches": total + 1,
            "graph_launches": self.graph_launches,
            "on_devices": [{"device": "cuda:0", "uuid": self.uuid, "kernels": total, "busy_ns": self.busy_ns}]
            if total
            else [],
            "names": 1,
            "kernels": [{"name": self.name, "count": total, "device_ns": 150_000_000}] if total else [],
            "control": self.control,
            "truncated": False,
            "t_began": began,
            "t_ended": began + self.seconds,
            "cost_s": 0.4,
        }


@dataclass
class Process:
    """One training process as its hook tells it."""

    pid: int = 4242
    start_time: float = 100.25
    device: str = "cuda:0"
    uuid: str | None = GPU
    steps: int = 40
    step_s: float = 0.1
    began: float = 110.0
    reserved: int = 2000 * MIB
    rank: int | None = None
    world_size: int | None = None
    parameters: dict[str, int] | None = None
    gradients: dict[str, int] | None = None
    state: dict[str, int] | None = None
    cpu_from_step: int | None = None
    warnings: tuple[str, ...] = ()
    hip: str | None = None
    ends: bool = True
    at_exit: str | None = None
    trace: Trace | None = None
    sampled: tuple[int, ...] = (1, 2, 3, 4, 5, 15, 25, 35)

    @property
    def source(self) -> str:
        return f"hook-{self.pid}-1.jsonl"

    def time_of(self, step: int) -> float:
        return round(self.began + (step - 1) * self.step_s, 6)

    @property
    def ended(self) -> float:
        return self.time_of(self.steps) + 0.2

    def records(self) -> list[dict[str, Any]]:
        """Every record, in order."""
        told: list[dict[str, Any]] = [
            {
                "record": "torch",
                "t_mono": self.began - 3,
                "ppid": 4000,
                "start_time": self.start_time,
                "version": "2.13.0",
                "cuda": "13.0",
                "hip": self.hip,
                "python": "3.12.3",
                "rank": self.rank,
                "world_size": self.world_size,
            }
        ]
        told.extend({"record": "warning", "t_mono": self.began - 2, "text": text} for text in self.warnings)
        told.extend(self._step(step, final=False) for step in self.sampled if step <= self.steps)
        if self.trace is not None:
            told.append({**self.trace.record(), "t_mono": self.ended - 0.06})
        if self.steps:
            times = [[step, self.time_of(step)] for step in range(1, self.steps + 1)]
            told.append({"record": "times", "t_mono": self.ended - 0.05, "times": times})
        if self.ends:
            if self.steps:
                told.append(self._final())
            told.append(self._end(len(told) + 1))
        return [{**record, "n": n, "pid": self.pid} for n, record in enumerate(told)]

    def _where(self, step: int, given: dict[str, int] | None, size: int) -> dict[str, int]:
        if given is not None:
            return given
        on_cpu = self.cpu_from_step is not None and step >= self.cpu_from_step
        return {"cpu" if on_cpu else self.device: size}

    def _step(self, step: int, *, final: bool) -> dict[str, Any]:
        parameters = self._where(step, self.parameters, 400 * MIB)
        on_cuda = [one for one in parameters if one.startswith("cuda")]
        return {
            "record": "step",
            "t_mono": self.ended - 0.01 if final else self.time_of(step),
            "step": step,
            "optimizer": 0,
            "optimizer_class": "AdamW",
            "optimizer_step": step,
            "final": final,
            "parameters": parameters,
            "gradients": self._where(step, self.gradients, 400 * MIB),
            "state": self._where(step, self.state, 800 * MIB),
            "scalars_excluded": 4,
            "devices": [
                {
                    "device": one,
                    "uuid": self.uuid,
                    "name": NAME,
                    "compute_capability": "9.0",
                    "allocated_bytes": self.reserved - 100 * MIB,
                    "reserved_bytes": self.reserved,
                    "max_reserved_bytes": self.reserved,
                }
                for one in on_cuda
            ],
        }

    def _final(self) -> dict[str, Any]:
        told = self._step(self.steps, final=True)
        if self.at_exit is not None:
            for part in ("parameters", "gradients", "state"):
                told[part] = {self.at_exit: sum(told[part].values())}
            told["devices"] = []
        return told

    def _end(self, records: int) -> dict[str, Any]:
        off = 0
        if self.steps and self.cpu_from_step is not None:
            off = self.steps - self.cpu_from_step + 1
        elif not all(one.startswith("cuda") for part in (self.parameters, self.gradients) for one in part or {}):
            off = self.steps
        if not self.device.startswith("cuda"):
            off = self.steps
        on = 0 if off else 12
        optimizers = [
            {
                "optimizer": 0,
                "optimizer_class": "AdamW",
                "steps": self.steps,
                "off_cuda_steps": off,
                "last_sampled_step": self.steps,
                "last": {
                    "step": self.steps,
                    "parameters_on_cuda": on,
                    "parameters": 12,
                    "gradients_on_cuda": on,
                    "gradients": 12,
                },
            }
        ]
        cuda = self.device.startswith("cuda")
        return {
            "record": "end",
            "t_mono": self.ended,
            "steps": self.steps,
            "created": 1,
            "never_stepped": 0 if self.steps else 1,
            "cuda_initialized": cuda,
            "is_available": True if cuda else None,
            "optimizers": optimizers if self.steps else [],
            "errors": 0,
            "records": records,
        }


@dataclass
class Guarded:
    """One guarded command: what the session, the sampler and the hooks recorded."""

    role: str = "train"
    processes: list[Process] = field(default_factory=lambda: [Process()])
    status: int = 0
    interrupted: bool = False
    stopped_reason: str | None = None
    trace_steps: int | None = None
    hidden: bool = False
    memory_hidden: bool = False
    still: bool = False  # the device's memory does not move with the processes'
    listed: bool = True
    idle_w: float = 90.0
    busy_w: float = 500.0
    baseline_used: int = 10 * MIB
    foreign: dict[int, int] = field(default_factory=dict)
    used: dict[int, int] | None = None
    sampler_error: str | None = None
    gpus: tuple[str, ...] = (GPU,)
    tree: list[tuple[int, float]] | None = None
    start: float = 105.0
    seconds: float = 12.0

    def rows(self) -> list[Row]:
        lines = self._sampler_lines()
        before, after = lines[:1], lines[1:]
        told: list[Row] = [(kind, {"role": self.role, **data}) for kind, data in before]
        started = {"role": self.role, "argv": ["python", "train.py"], "pid": 4242, "start_time": 100.25}
        told.append(("child.start", {**started, "supervisor_pid": 4000, "trace_steps": self.trace_steps}))
        merged: list[tuple[float, Row]] = [
            (data["t_mono"], (kind, {"role": self.role, **data})) for kind, data in after
        ]
        for process in self.processes:
            for record in process.records():
                data = {"role": self.role, "source": process.source, **record}
                merged.append((record["t_mono"], ("hook", data)))
        merged.sort(key=lambda one: one[0])
        told.extend(row for _, row in merged)
        told.append(
            (
                "child.exit",
                {
                    "role": self.role,
                    "pid": 4242,
                    "status": self.status,
                    "signal": None,
                    "seconds": self.seconds,
                    "interrupted": self.interrupted,
                    "stopped": "fail-fast" if self.stopped_reason else None,
                    "stopped_reason": self.stopped_reason,
                },
            )
        )
        hooks = [{"source": one.source, "pid": one.pid, "records": len(one.records())} for one in self.processes]
        told.append(
            (
                "guard.end",
                {
                    "role": self.role,
                    "hooks": hooks,
                    "hook_files_refused": 0,
                    "sampler_lines": len(lines),
                    "sampler_error": self.sampler_error,
                    "left_behind": 0,
                },
            )
        )
        return told

    def _listing(self, t: float, uuid: str) -> list[dict[str, Any]] | None:
        if self.hidden:
            return None
        found = [{"pid": pid, "used_bytes": used} for pid, used in self.foreign.items()]
        if self.used is not None:
            found.extend({"pid": pid, "used_bytes": used} for pid, used in self.used.items())
        elif self.listed:
            found.extend(
                {"pid": one.pid, "used_bytes": one.reserved + CONTEXT}
                for one in self.processes
                if one.uuid == uuid and one.device.startswith("cuda") and one.began - 1 <= t <= one.ended
            )
        return found

    def _memory(self, t: float, uuid: str) -> int | None:
        if self.memory_hidden:
            return None
        mine = sum(
            one.reserved + CONTEXT
            for one in self.processes
            if one.uuid == uuid and one.device.startswith("cuda") and one.began - 1 <= t <= one.ended and not self.still
        )
        return self.baseline_used + sum(self.foreign.values()) + mine

    def _sampler_lines(self) -> list[Row]:
        told: list[Row] = []

        def add(kind: str, t: float, **data: Any) -> None:
            told.append((kind, {"n": len(told), "t_mono": round(t, 6), **data}))

        idle_mj = int(self.idle_w * 1000)
        add(
            "baseline",
            self.start - 0.1,
            kernel_mode="580.159.04",
            devices=[
                {
                    "uuid": uuid,
                    "name": NAME,
                    "memory_bytes": 81559 * MIB,
                    "compute_capability": "9.0",
                    "pci_bus_id": "00000000:01:00.0",
                    "mig": False,
                    "memory_used_bytes": None
                    if self.memory_hidden
                    else self.baseline_used + sum(self.foreign.values()),
                    "utilization_percent": 0,
                    "power_mw": idle_mj,
                    "processes": None
                    if self.hidden
                    else [{"pid": pid, "used_bytes": used} for pid, used in self.foreign.items()],
                    "energy_start_mj": 1_000_000,
                    "energy_end_mj": 1_000_000 + idle_mj,
                    "energy_seconds": 1.0,
                }
                for uuid in self.gpus
            ],
        )
        members = self.tree
        if members is None:
            members = [(one.pid, one.start_time) for one in self.processes] or [(4242, 100.25)]
        add(
            "tree",
            self.start,
            processes=[{"pid": pid, "ppid": 4000, "start_time": start_time} for pid, start_time in members],
        )
        t, energy = self.start, 2_000_000
        while t <= self.start + self.seconds:
            add(
                "nvml.sample",
                t,
                devices=[
                    {
                        "uuid": uuid,
                        "memory_used_bytes": self._memory(t, uuid),
                        "utilization_percent": 97,
                        "power_mw": int(self.busy_w * 1000),
                        "processes": self._listing(t, uuid),
                    }
                    for uuid in self.gpus
                ],
            )
            if round(t * 10) % 10 == 0:
                add("energy", t, devices=[{"uuid": uuid, "energy_mj": energy} for uuid in self.gpus])
                energy += int(self.busy_w * 1000)
            t = round(t + 0.2, 6)
        add("sampler.end", self.start + self.seconds, lines=len(told))
        return told


@dataclass
class Run:
    """A whole journal."""

    profile: str = "enable"
    expect_gpu: str | None = "H100 80GB HBM3"
    simulated: bool = False
    compare_cpu: bool = False
    requested_device: str | None = "cuda"
    guarded: Guarded = field(default_factory=Guarded)
    comparison: Guarded | None = None
    smoke: dict[str, Any] | None = field(
        default_factory=lambda: {
            "name": "torch_cuda_check",
            "outcome": "proven",
            "reason": "asked",
            "figures": {"is_available": True},
        }
    )
    files: tuple[str, ...] | None = ("env_info.txt", "torch_cuda_check.txt", "training_log.txt", "nvidia_smi.txt")
    blocked: dict[str, Any] | None = None
    end: str | None = "completed"
    machine: dict[str, Any] | None = field(
        default_factory=lambda: {
            "os": "linux",
            "driver": {"kernel_mode": "580.159.04", "loaded": True},
            "device_files": True,
            "libraries": [{"name": "libnvidia-ml", "path": "/usr/lib/x", "version": "580.159.04"}],
        }
    )

    def rows(self) -> list[Row]:
        told: list[Row] = [
            (
                "run.start",
                {
                    "run_id": "r1",
                    "profile": self.profile,
                    "argv": ["ongpu"],
                    "expect_gpu": self.expect_gpu,
                    "simulated": self.simulated,
                    "compare_cpu": self.compare_cpu,
                    "requested_device": self.requested_device,
                },
            ),
        ]
        if self.machine is not None:
            devices = [{"uuid": uuid, "name": NAME} for uuid in (GPU,)]
            told.append(("machine", {"devices": devices, "simulated": self.simulated, **self.machine}))
        if self.smoke is not None:
            told.append(("smoke", self.smoke))
        if self.blocked is not None:
            told.append(("blocked", self.blocked))
        told.extend(self.guarded.rows())
        if self.comparison is not None:
            told.extend(self.comparison.rows())
        if self.files is not None:
            files = [{"name": name, "size_bytes": 10, "sha256": DIGEST} for name in self.files]
            told.append(("files", {"files": files}))
        if self.end is not None:
            told.append(("run.end", {"end": self.end}))
        return told

    def observations(self) -> list[Observation]:
        return number(self.rows())


def number(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Observation]:
    """Rows as a journal would hold them."""
    return [
        Observation(seq=seq, t_wall=1_763_800_000.0 + seq, t_mono=100.0 + seq, kind=kind, data=data)
        for seq, (kind, data) in enumerate(rows)
    ]


def cpu_process(**changes: Any) -> Process:
    """A process that trains on the CPU."""
    return Process(**{"device": "cpu", "uuid": None, "step_s": 1.0, "reserved": 0, **changes})
