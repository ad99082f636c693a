"""What a guarded command is given, and what is said of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """How a command is run.

    :param role: ``train`` or ``cpu-comparison``: the name under which every reading is recorded.
    :param environment: the child's whole environment; the hook is added here.
    :param log_path: a new file that gets every byte of output; ``None`` keeps none.
    :param fail_fast_s: stop the command when this long after its start no witness has seen GPU work, or one has seen
        the contrary. ``None`` lets it run.
    :param timeout_s: stop the command after this long.
    :param grace_s: between a polite signal of ours or the user's and SIGKILL.
    :param linger_s: what of the tree outlives the first process gets this long before it is ended.
    :param baseline_s: how long the idle energy is measured before the start.
    :param sampler_patience_s: how long the sampler may be silent before it counts as failed.
    :param trace_steps: record a kernel trace of that many steps of each process that trains (W5); ``None``: of none.
    :param scratch: where the hook's temporary folder is made; the system's own place by default.
    :param sampler_command: another program in the sampler's place, for tests of one that hangs or dies.
    """

    role: str
    environment: Mapping[str, str]
    cwd: Path | None = None
    log_path: Path | None = None
    fail_fast_s: float | None = None
    timeout_s: float | None = None
    grace_s: float = 30.0
    linger_s: float = 2.0
    baseline_s: float = 1.0
    sampler_patience_s: float = 15.0
    trace_steps: int | None = None
    scratch: Path | None = None
    sampler_command: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvent:
    """Something the caller may want to act on while the command runs.

    ``kind``: ``started`` (the command runs) or ``first-step-on-cuda`` (the hook reports it; ``seq`` is the
    observation). The callback runs between two readings: what it takes long, the readings wait.
    """

    kind: str
    pid: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardResult:
    """How the command ended.

    ``status`` is what a shell would say: the exit status, or 128 + n after signal n, whose name is in ``signal``.
    ``stopped`` is ``fail-fast`` or ``timeout`` where this guard ended it, with the sentence why in ``stopped_reason``.
    ``left_behind`` counts processes of the tree that had to be ended after the first one had left.
    """

    status: int
    signal: str | None
    seconds: float
    interrupted: bool
    stopped: str | None
    stopped_reason: str | None
    log_path: Path | None
    log_bytes: int
    log_sha256: str
    log_error: str | None
    hook_seen: bool
    hook_records: int
    sampler_error: str | None
    left_behind: int
