"""What to say beside a package's verdict, where the verdict alone would mislead.

Source of the names: what their wheels carry, read in November 2026 (89 wheels); the words are about packages that
compile for the GPU at run time and so need no precompiled code for it.
"""

from __future__ import annotations

from typing import Final

from ongpu.domain.coverage import PackageCoverage, Role
from ongpu.scan.files import normalized

_RUN_TIME: Final = {
    "triton": "Triton compiles its kernels at run time",
    "numba": "Numba compiles its kernels at run time",
    "numba-cuda": "Numba compiles its kernels at run time",
    "cuda-tile": "compiles its kernels at run time",
    "nvidia-cutlass-dsl": "compiles its kernels at run time",
    "exllamav3": "compiles its extension on first use",
    "deepspeed": "compiles its operators on first use",
    "cumm": "compiles its kernels at run time",
    "flashinfer-python": "compiles most of its kernels at run time",
    "warp-lang": "compiles a program's kernels at run time",
}
_NO_KERNELS: Final = {Role.LINK_INPUT: "link inputs", Role.TOOL: "a profiler's patches"}
_CUPY: Final = "only CUB, Thrust and jitify are precompiled; the rest is compiled at run time by NVRTC"


def compiles_at_run_time(name: str) -> bool:
    """Whether a package is known to compile its kernels for the device it meets."""
    return normalized(name) in _RUN_TIME


def note_for(package: PackageCoverage) -> str | None:
    """A sentence to show beside the verdict, or ``None``."""
    name = normalized(package.name)
    notes: list[str] = []
    if name.startswith("cupy-cuda") or name == "cupy":
        notes.append(_CUPY)
    elif name in _RUN_TIME:
        notes.append(_RUN_TIME[name])
    roles = {binary.role for binary in package.binaries if binary.has_code}
    if roles and Role.RUNTIME not in roles:
        what = " and ".join(words for role, words in _NO_KERNELS.items() if role in roles)
        notes.append(f"what it carries are {what}, not kernels a program runs")
    opaque = sum(frames.size_bytes for binary in package.binaries for frames in binary.opaque)
    if opaque:
        notes.append(f"{opaque / 1e6:.0f} MB of compressed data could not be looked into")
    return "; ".join(notes) or None
