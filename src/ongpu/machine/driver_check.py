"""A driver is asked in a child: how the child is run and its one line read.

NVML and libcuda can hang in a broken driver and crash in a wrong library; a child has a time limit and its own
address space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ongpu.errors import DoorError
from ongpu.machine.process import Completed, Processes

PAYLOAD = Path(__file__).parent.parent / "payload"
# A driver without persistence mode wakes every GPU when it is first asked: one or two seconds for each of eight.
START_TIMEOUT_S = 45.0


def run_check(
    processes: Processes, script: str, *, python: Path, environment: Mapping[str, str], timeout_s: float
) -> Completed:
    """Run one of the driver checks of the payload: isolated, and without any site package (15 ms)."""
    return processes.run((str(python), "-I", "-S", str(PAYLOAD / script)), timeout_s=timeout_s, env=dict(environment))


def read_answer(done: Completed, *, door: str, timeout_s: float) -> dict[str, object]:
    """The JSON line of a driver check. :raises DoorError: whatever kept the child from writing a good one."""
    if done.timed_out:
        raise DoorError(door=door, code="timeout", reason=f"no answer within {timeout_s:g} s; the child was killed")
    if done.status != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        ended = f"signal {-done.status}" if done.status < 0 else f"status {done.status}"
        raise DoorError(door=door, code="crashed", reason=f"the child that asked ended with {ended}: {last[0]}")
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise DoorError(door=door, code="unreadable", reason=f"the child's answer is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DoorError(door=door, code="unreadable", reason="the child's answer is not a JSON object")
    problem = found.get("error")
    if isinstance(problem, dict):
        raise DoorError(door=door, code=str(problem.get("code")), reason=str(problem.get("reason")))
    return found
