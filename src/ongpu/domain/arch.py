"""Compute capabilities, code targets, and the rule that says which code runs on which device.

The rule is NVIDIA's binary-compatibility rule (CUDA C++ Programming Guide, "Compute Capabilities" and the
Blackwell Compatibility Guide, section 1.2), with the Jetson exceptions as ``torch.cuda`` states them in
``DEVICE_REQUIREMENT`` (read in torch 2.14.1 and 2.15.0) and the family suffix as ptxas 13.5 accepts it.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)\Z")
_TARGET = re.compile(r"(sm|compute|lto)_(\d{2,3})([af]?)\Z")


@functools.total_ordering
class ComputeCapability:
    """What a *device* is, written ``"9.0"``.

    Not a dataclass on purpose: it travels through JSON as its text, and the encoders of floor 2 and up hand
    only unknown classes to a hook.
    """

    __slots__ = ("major", "minor")
    major: int
    minor: int

    def __init__(self, major: int, minor: int) -> None:
        if not (1 <= major <= 99 and 0 <= minor <= 9):
            raise ValueError(f"compute capability {major}.{minor} is out of range")
        object.__setattr__(self, "major", major)
        object.__setattr__(self, "minor", minor)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Read ``"12.0"``. Raises :class:`ValueError` naming the text for anything else (``"sm_120"``, ``"120"``)."""
        found = _CAPABILITY.match(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a compute capability such as '12.0'")
        return cls(int(found[1]), int(found[2]))

    @property
    def number(self) -> int:
        """The decimal number of code targets: 120 for 12.0."""
        return self.major * 10 + self.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def __repr__(self) -> str:
        return f"ComputeCapability({self.major}, {self.minor})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComputeCapability) and self.number == other.number

    def __lt__(self, other: ComputeCapability) -> bool:
        return self.number < other.number

    def __hash__(self) -> int:
        return hash(self.number)


class CodeKind(enum.StrEnum):
    """What kind of code an image holds."""

    SASS = "sm"
    PTX = "compute"
    LTO = "lto"


@functools.total_ordering
class CodeTarget:
    """What an *image in a file* was built for, written ``sm_90a``, ``compute_90``, ``lto_75``.

    ``suffix`` is ``"a"`` (this chip only), ``"f"`` (its family) or empty. Carried through JSON as its text,
    for the reason given at :class:`ComputeCapability`.
    """

    __slots__ = ("kind", "number", "suffix")
    kind: CodeKind
    number: int
    suffix: str

    def __init__(self, kind: CodeKind, number: int, suffix: str = "") -> None:
        if suffix not in {"", "a", "f"}:
            raise ValueError(f"code target suffix {suffix!r} is neither 'a' nor 'f'")
        if not 10 <= number <= 999:
            raise ValueError(f"code target number {number} is out of range")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "suffix", suffix)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    @classmethod
    def parse(cls, text: str) -> CodeTarget:
        """Read ``"sm_120a"``. Raises :class:`ValueError` naming the text for anything else."""
        found = _TARGET.match(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a code target such as 'sm_120', 'compute_90' or 'lto_75'")
        return cls(CodeKind(found[1]), int(found[2]), found[3])

    @property
    def capability(self) -> ComputeCapability:
        """The compute capability the target names; ``sm_101`` is Thor's old name for 11.0."""
        number = 110 if self.number == 101 else self.number
        return ComputeCapability(number // 10, number % 10)

    def __str__(self) -> str:
        return f"{self.kind.value}_{self.number}{self.suffix}"

    def __repr__(self) -> str:
        return f"CodeTarget.parse({str(self)!r})"

    def _key(self) -> tuple[str, int, str]:
        return (self.kind.value, self.number, self.suffix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodeTarget) and self._key() == other._key()

    def __lt__(self, other: CodeTarget) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class Fit(enum.StrEnum):
    """How code meets a device, best first."""

    NATIVE = "native"
    JIT = "jit"
    NONE = "none"


# Integrated GPUs whose cubins and those of the desktop GPUs of the same major exclude each other
# (torch.cuda.DEVICE_REQUIREMENT; lifted from CUDA 13.2 on for 7.0, 8.0 and 8.6 code).
_INTEGRATED: Final = frozenset({53, 62, 72, 87})
_UNIFIED_TARGETS: Final = frozenset({70, 80, 86})
# Families of the 'f' suffix: the chips each family covers (ptxas 13.5.37 accepts exactly these).
_FAMILY: Final = {100: (100, 103, 107), 103: (103, 107), 110: (110,), 120: (120, 121), 121: (121,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeVersion:
    """A CUDA version ``major.minor`` (of a runtime, of a toolkit, or the ceiling libcuda answers)."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> RuntimeVersion:
        """Read ``"13.0"``. Raises :class:`ValueError` naming the text."""
        found = re.match(r"(\d{1,2})\.(\d{1,2})(?:\.\d+)?\Z", text.strip())
        if not found:
            raise ValueError(f"{text!r} is not a CUDA version such as '13.0'")
        return cls(major=int(found[1]), minor=int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def runs(target: CodeTarget, device: ComputeCapability, *, runtime: RuntimeVersion | None = None) -> Fit:
    """How code built for ``target`` meets ``device``.

    :param runtime: the CUDA runtime version the binary was built with, where known. It decides the Jetson
        exceptions only: without it the stricter, older rule holds.
    :returns: ``NATIVE`` when the cubin runs, ``JIT`` when the driver (PTX) or nvJitLink (LTO-IR) can compile
        it, ``NONE`` otherwise. Whether the driver knows the PTX version is not asked here.
    """
    chip = 110 if device.number == 101 else device.number
    built = target.capability.number
    match target.kind:
        case CodeKind.SASS:
            return Fit.NATIVE if _cubin_runs(built, target.suffix, chip, runtime) else Fit.NONE
        case CodeKind.PTX | CodeKind.LTO:
            if target.suffix == "a":
                return Fit.JIT if built == chip else Fit.NONE
            if target.suffix == "f":
                return Fit.JIT if chip in _FAMILY.get(built, (built,)) else Fit.NONE
            return Fit.JIT if chip >= built else Fit.NONE


def _cubin_runs(built: int, suffix: str, chip: int, runtime: RuntimeVersion | None) -> bool:
    if suffix == "a":
        return built == chip
    if suffix == "f":
        return chip in _FAMILY.get(built, (built,))
    if built // 10 != chip // 10 or chip < built:
        return False
    if (built in _INTEGRATED) != (chip in _INTEGRATED):
        unified = runtime is not None and (runtime.major, runtime.minor) >= (13, 2)
        return unified and built in _UNIFIED_TARGETS
    return built == chip if built in _INTEGRATED else True


def best_fit(targets: Iterable[CodeTarget], device: ComputeCapability, *, runtime: RuntimeVersion | None = None) -> Fit:
    """The best fit any of ``targets`` gives ``device``; ``NONE`` for no targets."""
    fits = {runs(target, device, runtime=runtime) for target in targets}
    return next((fit for fit in Fit if fit in fits), Fit.NONE)
