"""What code a binary, a package, an environment carries, and how it meets a device."""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.domain.arch import CodeTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCount:
    """How many images of one code target a file carries."""

    target: CodeTarget
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCoverage:
    """The precompiled CUDA code of one file.

    ``sass`` and ``ptx`` count executable images only; ``relocatable`` are link inputs, which the driver never
    loads. ``problems`` names what of the file could not be read.
    """

    path: str
    format: str
    sass: tuple[TargetCount, ...] = ()
    ptx: tuple[TargetCount, ...] = ()
    lto: tuple[TargetCount, ...] = ()
    relocatable: tuple[TargetCount, ...] = ()
    ptx_isa: str | None = None
    size_bytes: int = 0
    problems: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[CodeTarget, ...]:
        """Every executable target the file has code for."""
        return tuple(one.target for one in (*self.sass, *self.ptx, *self.lto))
