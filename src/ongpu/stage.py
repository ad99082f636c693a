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
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ongpu.errors import UsageError, WorkError

_PACKAGE = Path(__file__).resolve().parent
_ROOMS = ("domain", "training")
_MODULES = ("__init__.py", "errors.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A folder to put on ``PYTHONPATH``, and the SHA-256 over its files by name and content."""

    path: Path
    sha256: str


@contextlib.contextmanager
def staged_training() -> Iterator[Staged]:
    """The reference training in a temporary folder of its own, gone at the end.

    :raises WorkError: that folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ongpu-train-"))
            staged = _stage(Path(scratch) / "staged")
        except OSError as error:
            raise WorkError(
                f"The training could not be laid out in a temporary folder: {error.strerror or error}.",
                next_step="Make room in it, or name another one in the variable TMPDIR.",
            ) from error
        yield staged


def _stage(into: Path) -> Staged:
    package = into / "ongpu"
    package.mkdir(parents=True)
    rooms = (path for room in _ROOMS for path in (_PACKAGE / room).rglob("*") if path.is_file())
    for source in (*(_PACKAGE / name for name in _MODULES), *rooms):
        if source.parent.name != "__pycache__":
            target = package / source.relative_to(_PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    digest = hashlib.sha256()
    for file in sorted(path for path in package.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(into).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return Staged(path=into, sha256=digest.hexdigest())


def run_staged_training(python: Path, options: Sequence[str], *, environment: Mapping[str, str]) -> int:
    """Run the reference training by another Python, its streams being ours; returns its exit status.

    An interrupt is handed on once each time: the training writes its checkpoint and leaves, and is waited for here.

    :raises UsageError: that Python cannot be started.
    :raises WorkError: there is no room to lay the training out.
    """
    with staged_training() as staged:
        joined = os.pathsep.join(filter(None, (str(staged.path), environment.get("PYTHONPATH"))))
        argv = [str(python), "-m", "ongpu.training", *options]
        try:
            # In a session of its own a terminal's Ctrl-C does not reach it a second time, past us.
            child = subprocess.Popen(
                argv, env={**environment, "PYTHONPATH": joined}, start_new_session=sys.platform != "win32"
            )
        except OSError as error:
            raise UsageError(
                f"{python} cannot be run: {error.strerror or error}.",
                next_step="Name the Python of the environment you train in with --python.",
            ) from error
        with child:
            while child.poll() is None:
                try:
                    child.wait()
                except KeyboardInterrupt:
                    if sys.platform != "win32":
                        child.send_signal(signal.SIGINT)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
