"""Whether the kernels of ``kernels.py`` were compiled on this machine before, for a model of this shape.

Triton keeps what it compiled in a folder of its own. A mark beside it says for which model, torch and GPU all kernels
of a step are in there, so that a job of a few seconds takes them when they cost nothing and leaves them alone when
they would be compiled first. A mark that is lost, or one that is out of date, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_MARK: Final = "ongpu-"
_SOURCES: Final = ("kernels.py", "record_attention.py")


def mark(variables: Mapping[str, str], *, shape: object, longest: int, torch_version: str, gpu: str) -> Path:
    """Where the mark of this combination is, there or not. ``longest`` is the longest record in tokens."""
    digest = hashlib.sha256(repr((shape, longest, torch_version, gpu)).encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return _folder(variables) / f"{_MARK}{digest.hexdigest()[:24]}"


def leave(path: Path) -> None:
    """Leave the mark; a folder that cannot be written stays without."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def import_ahead(variables: Mapping[str, str]) -> None:
    """Import Triton in a thread while weights are drawn and a CUDA context is made, if any mark is there."""
    if importlib.util.find_spec("triton") and any(_folder(variables).glob(f"{_MARK}*")):
        threading.Thread(target=_import, daemon=True).start()


def _import() -> None:
    with contextlib.suppress(ImportError):  # whoever needs it will be told
        importlib.import_module("triton")


def _folder(variables: Mapping[str, str]) -> Path:
    # as Triton has it: triton/knobs.py, cache_knobs
    home = variables.get("TRITON_HOME") or Path.home()
    return Path(variables.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))
