"""What the kernels of ``kernels.py`` need of a machine besides its GPU, asked before any of it is imported."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_LEAST_CAPABILITY: Final = (8, 0)
"""bfloat16 products; before it they would be emulated."""
_LEAST_FOR_FLOAT8: Final = (8, 9)
_FLOAT8_SIDE: Final = 16
"""cuBLAS multiplies float8 matrices whose sides are multiples of it."""
_HEAD_WIDTHS: Final = (32, 64, 128, 256)


def missing(variables: Mapping[str, str], *, capability: tuple[int, int] | None, head_width: int) -> str:
    """Why our kernels cannot be compiled or run here, as the end of a sentence; empty where they can.

    Triton compiles the call of each kernel with a C compiler and Python's headers (``triton/runtime/build.py``), which
    slim containers lack. ``capability`` is that of the GPU, ``None`` where there is none.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if capability is not None and capability < _LEAST_CAPABILITY:
        return f"they are for compute capability 8.0 and later, and this GPU has {capability[0]}.{capability[1]}"
    if not (variables.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang), and there is none"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not Path(sysconfig.get_paths(scheme=scheme)["include"], "Python.h").is_file():
        return "Triton needs Python's headers (Python.h, often a package named python3-dev), and they are not there"
    if head_width not in _HEAD_WIDTHS:
        return f"they are not made for heads {head_width} wide"
    return ""


def missing_for_float8(*, capability: tuple[int, int] | None, widths: tuple[int, ...]) -> str:
    """Why products of matrices of these ``widths`` cannot be made in float8 here, as :func:`missing` says it."""
    if capability is not None and capability < _LEAST_FOR_FLOAT8:
        return f"it needs compute capability 8.9 or later, and this GPU has {capability[0]}.{capability[1]}"
    odd = [width for width in widths if width % _FLOAT8_SIDE]
    return f"it needs widths that are multiples of {_FLOAT8_SIDE}, and this model has {odd[0]}" if odd else ""
