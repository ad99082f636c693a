"""A fresh environment is built beside its place and moved there whole; a killed build leaves nothing in the way.

Steps, each of which may be the last one before a power cut:

1. ``NAME.partial-XXXXXX`` is made next to ``NAME``, and a lock in it is held by this process.
2. Everything is installed and checked there.
3. It is renamed to ``NAME``. Until 4, it is recognizable as unfinished (``ongpu-building`` without
   ``ongpu-complete.json``) and the next install removes it.
4. ``ongpu-complete.json`` is written, atomically: from here on it is complete, and never touched again without
   the user's word.

Virtual environments can be moved only when their scripts find the interpreter from where they lie: uv makes them
so with ``--relocatable``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ongpu.errors import UsageError, WorkError

_COMPLETE: Final = "ongpu-complete.json"
_BUILDING: Final = "ongpu-building"


@dataclass(slots=True)
class Partial:
    """A build in progress: ``folder`` is where the environment grows, ``final`` where it will lie."""

    folder: Path
    final: Path
    lock: IO[bytes]
    moved: bool = False
    settled: bool = False
    replaced: Path | None = None


def complete_marker(venv: Path) -> dict[str, Any] | None:
    """What ``ongpu-complete.json`` of an environment says; ``None`` where there is none or it is not readable."""
    try:
        marker = json.loads((venv / _COMPLETE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def is_unfinished(venv: Path) -> bool:
    """Whether ``venv`` is what a killed install left: ours, and never completed."""
    return (venv / _BUILDING).is_file() and not (venv / _COMPLETE).is_file()


def check_place(venv: Path, *, active: frozenset[Path]) -> None:
    """Refuse a place where no environment can be made. An existing environment is judged by the caller.

    :param active: the environments in use: the activated one and ongpu's own.
    :raises UsageError: it is active, a file, not an environment, or its parent is missing.
    """
    if "\n" in str(venv) or os.pathsep in str(venv):
        raise UsageError(
            f"The environment's path {str(venv)!r} has a character that PATH cannot hold.",
            next_step="Name another folder with --venv.",
        )
    if venv.exists() and venv.resolve() in active:
        raise UsageError(
            f"{str(venv)!r} is the active environment (or ongpu's own); a fresh one is made beside it, never in it.",
            next_step="Name another folder with --venv, for example --venv .venv-gpu.",
        )
    if venv.is_symlink() or (venv.exists() and not venv.is_dir()):
        raise UsageError(
            f"{str(venv)!r} is a {'link' if venv.is_symlink() else 'file'}, not a folder.",
            next_step="Move it away, or name another folder with --venv.",
        )
    if not venv.parent.is_dir():
        raise UsageError(
            f"The folder {str(venv.parent)!r} does not exist.", next_step="Make it, or name another place with --venv."
        )


def python_of(venv: Path) -> Path:
    """Where the interpreter of an environment lies."""
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def version_of(venv: Path) -> tuple[tuple[int, int] | None, bool]:
    """The Python version of an environment as its files say it, and whether it is free-threaded."""
    try:
        config = (venv / "pyvenv.cfg").read_text("utf-8")
    except (OSError, ValueError):
        return None, False
    found = re.search(r"(?im)^version(?:_info)?\s*=\s*(\d+)\.(\d+)", config)
    free_threaded = any(venv.glob("lib/python3*t")) or any(venv.glob("bin/python3*t"))
    return (int(found[1]), int(found[2])) if found else None, free_threaded


def is_environment(venv: Path) -> bool:
    """Whether a folder is a virtual environment of any maker."""
    return (venv / "pyvenv.cfg").is_file()


@contextlib.contextmanager
def building(venv: Path) -> Iterator[Partial]:
    """A folder beside ``venv`` to build in. Unless :func:`settle` was reached, the old state is back at the end.

    :raises UsageError: the parent is not writable, or another install is at work on the same environment.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{venv.name}.partial-", dir=venv.parent))
    except OSError as error:
        raise _cannot_write(venv.parent, error) from error
    try:
        folder.chmod(0o755)  # mkdtemp's 0700 would keep colleagues out of a shared environment
        with (folder / _BUILDING).open("wb") as lock:
            _hold(lock)
            partial = Partial(folder=folder, final=venv, lock=lock)
            try:
                yield partial
            finally:
                if not partial.settled:
                    withdraw(partial)
    finally:
        _remove(folder)


def commit(partial: Partial, *, marker: Mapping[str, object], replace: bool) -> None:
    """Move the finished environment into place, and say last that it is complete.

    Until :func:`settle`, what was there before is kept beside it.

    :param replace: whether an environment in the way may go.
    :raises UsageError: something appeared in the place meanwhile.
    """
    final = partial.final
    if final.exists() and any(final.iterdir()):
        if not (replace or is_unfinished(final)):
            raise UsageError(
                f"{str(final)!r} appeared while the new environment was being built; it was not touched.",
                next_step="Name another folder with --venv.",
            )
        kept = Path(tempfile.mkdtemp(prefix=f"{final.name}.replaced-", dir=final.parent)) / final.name
        final.rename(kept)
        partial.replaced = kept
    elif final.exists():
        final.rmdir()
    if sys.platform == "win32":
        partial.lock.close()  # a folder with an open file in it cannot be renamed there
    partial.folder.rename(final)
    partial.moved = True
    write_marker(final, marker)


def settle(partial: Partial) -> None:
    """The environment in its place was found good: drop what it replaced."""
    partial.settled = True
    with contextlib.suppress(OSError):
        (partial.final / _BUILDING).unlink()
    if partial.replaced is not None:
        _remove(partial.replaced.parent)


def withdraw(partial: Partial) -> None:
    """Undo :func:`commit` as far as it came: the old environment is back in its place."""
    if partial.moved:
        _remove(partial.final)
        partial.moved = False
    if partial.replaced is not None and not partial.final.exists():
        partial.replaced.rename(partial.final)
        partial.replaced.parent.rmdir()
        partial.replaced = None


def write_marker(venv: Path, marker: Mapping[str, object]) -> None:
    """Write ``ongpu-complete.json``: whole or not at all, on the disk before this returns."""
    fresh = venv / (_COMPLETE + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(marker, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(venv / _COMPLETE)


def recover(venv: Path) -> None:
    """Bring back the state before an install that was killed while it moved things.

    :raises UsageError: that install is still running.
    """
    _remove_stale(venv)
    if is_unfinished(venv):
        _refuse_if_held(venv / _BUILDING, venv=venv, where=venv.name)
        _remove(venv)
    for folder in sorted(venv.parent.glob(f"{_escaped(venv.name)}.replaced-*")):
        kept = folder / venv.name
        if kept.is_dir() and not venv.exists():
            kept.rename(venv)
        _remove(folder)


def _remove_stale(venv: Path) -> None:
    """Remove the partial folders of installs that are no longer running; refuse if one is."""
    for folder in sorted(venv.parent.glob(f"{_escaped(venv.name)}.partial-*")):
        if not folder.is_dir() or folder.is_symlink():
            continue
        if (folder / _BUILDING).is_file():
            _refuse_if_held(folder / _BUILDING, venv=venv, where=folder.name)
        _remove(folder)


def _refuse_if_held(marker: Path, *, venv: Path, where: str) -> None:
    try:
        with marker.open("ab") as file:
            _hold(file)
    except OSError as error:
        raise UsageError(
            f"Another install is making {str(venv)!r} right now (in {where}).",
            next_step="Wait for it to end, or name another folder with --venv.",
        ) from error


def _escaped(name: str) -> str:
    return "".join(f"[{one}]" if one in "*?[" else one for one in name)


def _hold(file: IO[bytes]) -> None:
    """Lock a file for as long as it is open. The system lets go of it however this process ends."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - there only

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(folder: Path) -> None:
    # Twice: an installer that was killed a moment ago may still have written one file between listing and removing.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _cannot_write(folder: Path, error: OSError) -> UsageError | WorkError:
    if isinstance(error, PermissionError) or error.errno in {13, 30}:
        return UsageError(
            f"The folder {str(folder)!r} is not writable: {error.strerror}.",
            next_step="Name a place you may write to with --venv.",
        )
    return WorkError(
        f"Nothing can be made in {str(folder)!r}: {error.strerror}.",
        next_step="Free space there, or choose --venv elsewhere.",
    )
