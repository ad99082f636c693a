"""Where a bundle is made: a folder of the run's own, locked, with disk space held back for its last words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from ongpu.errors import UsageError

# Held back on the disk so that a run that fills it can still say so and be sealed.
_RESERVE_BYTES: Final = 1 << 18


def free_sibling(folder: Path) -> Path:
    """``folder`` if it is free (absent, or an empty directory), else the first free of ``NAME-2``, ``NAME-3`` ..."""
    candidate, number = folder, 1
    while not _is_free(candidate):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _is_free(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    if not folder.exists():
        return True
    return folder.is_dir() and next(folder.iterdir(), None) is None


def take_folder(folder: Path) -> None:
    """Make the folder (mode 0700) or take it where it is empty. :raises UsageError: it is taken, or cannot be made."""
    try:
        linked = folder.is_symlink()
    except OSError as error:
        raise unwritable(folder, error) from error
    if linked:
        raise UsageError(
            f"{folder} is a symbolic link; evidence is written into a real folder only.",
            next_step="Name a folder that does not exist yet with --evidence.",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_free(folder):
            raise taken(folder) from None
    except OSError as error:
        raise unwritable(folder, error) from error


def taken(folder: Path) -> UsageError:
    """The error for a folder that is somebody's."""
    what = "is not empty" if folder.is_dir() else "is not a folder"
    return UsageError(
        f"{folder} {what}; evidence is never written over.",
        next_step=f"Name a free folder with --evidence, for example {free_sibling(folder)}.",
    )


def unwritable(folder: Path, error: OSError) -> UsageError:
    """The error for a folder that cannot be written."""
    return UsageError(
        f"{folder} cannot take evidence: {error.strerror or error}.",
        next_step="Name a folder you can write to with --evidence.",
    )


def nofollow() -> int:
    """Flags for opening a file of a bundle: no link is followed, no child inherits it, no byte is changed."""
    return getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def hold_reserve(folder: Path) -> int | None:
    """Hold disk space in a file without a name: it is free again when this process closes it or dies."""
    if sys.platform == "win32":
        return None
    path = folder / ".reserve"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | nofollow(), 0o600)
    try:
        path.unlink()
        os.write(fd, b"\0" * _RESERVE_BYTES)
    except OSError:
        os.close(fd)
        raise
    return fd


def lock(fd: int) -> None:
    """Take the journal for this process; raises :class:`OSError` where another holds it. Freed when it dies."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - the module exists on Windows only

        # Far behind the end of the file: a locked region cannot be read by others on Windows.
        os.lseek(fd, 1 << 40, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - the module exists on POSIX only

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_data(fd: int) -> None:
    """Bring the file's bytes to the disk."""
    if sys.platform == "linux":
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk; Windows has no such call."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
