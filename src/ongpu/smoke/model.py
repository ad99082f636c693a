"""What the checks answer, and what their children say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from ongpu.domain.verdict import Cause, Outcome, worst

_T = TypeVar("_T")

Figure = bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeCheck:
    """One check: ``torch_cuda_check``, ``matmul-float32``, ``matmul-bfloat16`` or ``process-memory``.

    ``figures`` carries its unit in each name; ``lines`` are the words of torch or NVML that it rests on. A check
    that is not ``required`` asks for something that this GPU is not made for; it is shown and does not decide.
    """

    name: str
    outcome: Outcome
    reason: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    cause: Cause | None = None
    lines: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDevice:
    """One device as torch names it. ``uuid`` is without the prefix ``GPU-``; ``None`` from a torch that names none."""

    index: int
    name: str
    uuid: str | None
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchReading:
    """What torch said of itself and of CUDA. ``cuda`` is the CUDA runtime version, ``driver`` the CUDA driver version.

    ``kernel`` has one entry a device: ``None`` where a kernel ran, else the error. ``error`` is what kept the
    reading from being finished, in torch's words.
    """

    python: str
    torch: str | None
    cuda: str | None
    hip: str | None
    cudnn: int | None
    driver: str | None
    is_available: bool | None
    devices: tuple[TorchDevice, ...]
    arch_list: tuple[str, ...]
    kernel: tuple[str | None, ...]
    warnings: tuple[str, ...]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeReport:
    """All checks, what torch said (``None`` where it said nothing readable), and the children's whole output.

    ``texts`` maps a file name (``torch_cuda_check.txt``, ``matmul_check.txt``) to its content.
    """

    checks: tuple[SmokeCheck, ...]
    torch: TorchReading | None
    texts: Mapping[str, str]

    @property
    def outcome(self) -> Outcome:
        """The worst of the required checks."""
        return worst(check.outcome for check in self.checks if check.required)

    @property
    def cause(self) -> Cause | None:
        """The first cause named; ``undetermined`` where something is not proven and none was."""
        if self.outcome is Outcome.PROVEN:
            return None
        named = (check.cause for check in self.checks if check.required and check.outcome is not Outcome.PROVEN)
        return next((cause for cause in named if cause is not None), Cause.UNDETERMINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the child says while it holds its memory."""

    pid: int
    ppid: int
    device: str
    uuid: str | None
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What the child says of one product; times in seconds."""

    dtype: str
    size: int
    seed: int
    device: str
    seconds: float
    tflops: float
    not_finite: int
    rows: int
    rows_error: float
    projected_error: float


def read(text: str | bytes, shape: type[_T]) -> _T | None:
    """A child's JSON as a value; ``None`` where it is not that."""
    try:
        return msgspec.convert(json.loads(text), shape)
    except (ValueError, msgspec.ValidationError):
        return None


def not_made(name: str, reason: str, cause: Cause | None) -> SmokeCheck:
    """A check that could not be made: unknown."""
    return SmokeCheck(name=name, outcome=Outcome.UNKNOWN, reason=reason, cause=cause)
