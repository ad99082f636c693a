"""A driver is asked in a child: how the child is run and its one line read.

NVML and libcuda can hang in a broken driver and crash in a wrong library; a child has a time limit and its own
address space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ongpu.errors import DoorError
from ongpu.machine.process import Completed, Processes

PAYLOAD = Path(__file__).parent.parent / "payload"
# A driver without persistence mode wakes every GPU when it is first asked: one or two seconds for each of eight.
START_TIMEOUT_S = 45.0


# The questions of `probe` and `doctor`: what is run with the Python at hand.
LIBCUDA: Final = ("libcuda_check.py",)
NVML_START: Final = ("nvml_check.py",)
NVML_DEVICES: Final = ("nvml_check.py", "devices")


def check_command(check: Sequence[str], *, python: Path) -> tuple[str, ...]:
    """How a driver check of the payload is started: isolated, and without any site package (15 ms)."""
    return (str(python), "-I", "-S", str(PAYLOAD / check[0]), *check[1:])


def run_check(
    processes: Processes, check: Sequence[str], *, python: Path, environment: Mapping[str, str], timeout_s: float
) -> Completed:
    """Run one of the driver checks."""
    return processes.run(check_command(check, python=python), timeout_s=timeout_s, env=dict(environment))


def read_answer(done: Completed, *, door: str, timeout_s: float, line: int = 0) -> dict[str, object]:
    """A JSON line of a driver check. :raises DoorError: whatever kept the child from writing a good one.

    :param line: which; one that was written whole is an answer, whatever became of the child after it.
    """
    lines = done.stdout.splitlines(keepends=True)
    written = line < len(lines) and lines[line].endswith(b"\n")
    if done.timed_out and not written:
        raise DoorError(door=door, code="timeout", reason=f"no answer within {timeout_s:g} s; the child was killed")
    if done.status != 0 and not written:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        ended = f"signal {-done.status}" if done.status < 0 else f"status {done.status}"
        raise DoorError(door=door, code="crashed", reason=f"the child that asked ended with {ended}: {last[0]}")
    try:
        found = json.loads(lines[line] if written else b"")
    except ValueError as error:
        raise DoorError(door=door, code="unreadable", reason=f"the child's answer is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DoorError(door=door, code="unreadable", reason="the child's answer is not a JSON object")
    problem = found.get("error")
    if isinstance(problem, dict):
        raise DoorError(door=door, code=str(problem.get("code")), reason=str(problem.get("reason")))
    return found
