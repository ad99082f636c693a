"""A recorder in memory and one guarded run judged: what the tests of the guard share."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ongpu.domain.judge import judge
from ongpu.domain.verdict import Verdict, Witness
from ongpu.domain.witness import Observation
from ongpu.errors import DoorError
from ongpu.guard.session import GuardEvent, GuardResult, GuardSettings, run_guarded
from ongpu.machine.nvml import RealNvml

PYTHON = sys.executable
NO_NVML = (PYTHON, "-c", "import sys\nfor line in sys.stdin: pass")  # a sampler that never says a word


@dataclass
class Memory:
    """A :class:`~ongpu.domain.witness.Recorder` that keeps everything."""

    observations: list[Observation] = field(default_factory=list)

    def record(self, kind: str, data: Mapping[str, object]) -> int:
        seq = len(self.observations)
        now = Observation(seq=seq, t_wall=time.time(), t_mono=time.monotonic(), kind=kind, data=dict(data))
        self.observations.append(now)
        return seq

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [one.data for one in self.observations if one.kind == kind]

    def hooks(self, record: str) -> list[Mapping[str, Any]]:
        return [one for one in self.of("hook") if one.get("record") == record]


@dataclass
class Guarded:
    """One guarded run with its verdict."""

    verdict: Verdict
    result: GuardResult
    memory: Memory
    events: list[GuardEvent]

    def witness(self, name: str) -> Witness:
        return next(one for one in self.verdict.witnesses if one.name == name)

    def claim(self, name: str) -> str:
        return str(next(one for one in self.verdict.claims if one.id == name).outcome)


def environment(**more: str) -> dict[str, str]:
    """This process' environment for a child, the path of the tests' torch included."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def settings(**changes: Any) -> GuardSettings:
    given = {"role": "train", "environment": environment(), "baseline_s": 0.05, "linger_s": 0.3, "grace_s": 5.0}
    return GuardSettings(**{**given, **changes})


def machine() -> dict[str, Any]:
    """What the probe would say of the driver here, as far as the judge asks."""
    devices: list[dict[str, str]] = []
    with contextlib.suppress(DoorError):
        devices = [{"uuid": one.uuid, "name": one.name} for one in RealNvml().devices()]
    loaded = Path("/proc/driver/nvidia/version").exists()
    return {"os": "linux", "devices": devices, "driver": {"loaded": loaded}, "simulated": False}


def prove(
    command: Sequence[str],
    *,
    expect_gpu: str | None = None,
    console: Any = None,
    on_machine: dict[str, Any] | None = None,
    **changes: Any,
) -> Guarded:
    """Run a command under guard as ``ongpu run`` does, and judge what was recorded."""
    memory, events = Memory(), list[GuardEvent]()
    memory.record(
        "run.start",
        {
            "run_id": "test",
            "profile": "run",
            "argv": list(command),
            "expect_gpu": expect_gpu,
            "simulated": False,
            "compare_cpu": False,
        },
    )
    memory.record("machine", on_machine or machine())
    result = run_guarded(
        command, settings=settings(**changes), recorder=memory, console=console, on_event=events.append
    )
    memory.record("run.end", {"end": "completed", "observations": len(memory.observations)})
    return Guarded(verdict=judge(memory.observations), result=result, memory=memory, events=events)


def script(folder: Path, text: str, name: str = "program.py") -> str:
    """Write a program and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
