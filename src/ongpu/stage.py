"""The reference training laid out for another Python.

ongpu is not installed in the environment it enables, and the folder it lives in may hold packages made for
its own Python. So the few pure modules that the training needs are copied into a folder of their own, which
alone goes on the other Python's path. The copy's digest goes into the bundle: it names the code that ran.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_ROOMS = ("domain", "training")
_MODULES = ("__init__.py", "errors.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A folder to put on ``PYTHONPATH``, and the SHA-256 over its files by name and content."""

    path: Path
    sha256: str


def stage_training(into: Path) -> Staged:
    """Copy ``ongpu.training`` and what it may import into the new folder ``into``.

    Raises :class:`OSError` where the folder cannot be written.
    """
    package = into / "ongpu"
    package.mkdir(parents=True)
    for name in _MODULES:
        shutil.copyfile(_PACKAGE / name, package / name)
    for room in _ROOMS:
        shutil.copytree(_PACKAGE / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    digest = hashlib.sha256()
    for file in sorted(path for path in package.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(into).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return Staged(path=into, sha256=digest.hexdigest())


def run_staged_training(python: Path, options: Sequence[str], *, environment: Mapping[str, str]) -> int:
    """Run the reference training by another Python, its streams being ours; returns its exit status.

    An interrupt reaches both: the training writes its checkpoint and leaves, and is waited for here.
    """
    with tempfile.TemporaryDirectory(prefix="ongpu-train-") as scratch:
        staged = stage_training(Path(scratch) / "staged")
        joined = os.pathsep.join(filter(None, (str(staged.path), environment.get("PYTHONPATH"))))
        argv = [str(python), "-m", "ongpu.training", *options]
        with subprocess.Popen(argv, env={**environment, "PYTHONPATH": joined}) as child:
            while child.poll() is None:
                with contextlib.suppress(KeyboardInterrupt):
                    child.wait()
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
