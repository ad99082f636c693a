"""Observations: timestamped readings, the only thing a verdict is computed from.

A journal is a sequence of observations, one JSON object a line, written by the supervisor alone:

``{"seq": 7, "prev": "<sha256 hex>", "t_wall": 1763800000.123456, "t_mono": 5123.456789, "kind": "nvml.sample",
"data": {...}}``

``seq`` counts from 0 without gaps. ``prev`` is the chain value of the line before (64 zeros first); the chain
value of a line is ``sha256(prev_hex_ascii + line_bytes_without_newline)``. ``t_wall`` is seconds since the
epoch, ``t_mono`` seconds of the supervisor's monotonic clock (on Linux one clock for all processes).

Kinds and their ``data`` (bytes are integers, times seconds of the monotonic clock; a field that could not be
read is null with a sibling ``..._reason`` where there is one):

=====================  ===========================================================================================
``run.start``          run id, profile (``enable`` | ``run``), argv, expect_gpu, simulated, tool version, boot id
``machine``            ``Machine`` as the probe read it
``plan``               decision, chosen build, axes
``environment``        the target environment as read: python, torch version, CUDA tag, packages
``install``            what was installed, excluded, overridden
``scan``               coverage of torch's own libraries for the device
``smoke``              one check: name, outcome, figures
``baseline``           per device, before the child starts: memory used, energy over a window
``child.start``        role (``train`` | ``cpu-comparison``), argv, pid, start time of the process
``nvml.sample``        role, per device uuid: memory used, utilization, power; processes [{pid, used_bytes|null}]
``nvml.error``         door code and reason; the sampler goes on
``energy``             role, per device uuid: total energy counter in mJ
``tree``               role, [{pid, ppid, start_time}] when it changed
``hook``               role, one record of the hook inside the process (claimed by the process, see W1)
``child.exit``         role, status, signal
``text``               a text file taken: name, while (the ``seq`` of the step it was taken beside)
``files``              the bundle's files so far: name, size, sha256
``phase``              name, outcome, seconds
``blocked``            phase, cause, lines, next_step
``run.end``            how it ended: completed | failed | interrupted | blocked
=====================  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One line of the journal, without its chain value."""

    seq: int
    t_wall: float
    t_mono: float
    kind: str
    data: Mapping[str, object]


class Recorder(Protocol):
    """Where a room hands its observations; returns the sequence number given to it."""

    def record(self, kind: str, data: Mapping[str, object]) -> int:
        """Append one observation and return its ``seq``."""
        ...
