"""Files kept from run to run: named by what they were made of and by their own digest, written aside and renamed.

Nothing here ends a run: what cannot be read is made again, what cannot be written is not kept, and a line says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ongpu.training.checkpoint import digest

MOST_BYTES: Final = 2 << 30
"""Of all files together; those that were not used for longest are removed."""
VARIABLES: Final[Mapping[str, str]] = {"tokens": "ONGPU_TOKEN_CACHE", "kernels": "ONGPU_KERNEL_CACHE"}
_NAME: Final = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{64}\.[a-z]+")
_PARTIAL: Final = ".partial"
_ABANDONED_S: Final = 86_400.0
_Found = TypeVar("_Found")


def folder_of(variables: Mapping[str, str], name: str = "tokens") -> Path | None:
    """Where a user's files of this name are kept, if anywhere.

    By ``ONGPU_TOKEN_CACHE`` (and so on for other names), ``XDG_CACHE_HOME`` or the home folder.
    """
    if own := variables.get(VARIABLES[name]):
        return Path(own)
    for variable, below in (("XDG_CACHE_HOME", ""), ("LOCALAPPDATA", ""), ("HOME", ".cache")):
        base = Path(variables.get(variable, ""))
        if base.is_absolute():  # the XDG specification: a relative one is to be ignored
            return base / below / "ongpu" / name
    return None


def key_of(*parts: object) -> str:
    """The name of what is made of ``parts``, and of nothing else."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """One folder of such files. Where several processes share it, one ``writes`` and the others only read."""

    folder: Path
    writes: bool
    most_bytes: int = MOST_BYTES

    def find(self, key: str, read: Callable[[Path], _Found], *, say: Callable[[str], None]) -> _Found | None:
        """What ``read`` makes of the file kept under ``key``; ``None``: there is none, or it is damaged (said).

        :param read: raises ``OSError`` or ``ValueError`` for what is not the file it expects.
        """
        for path in self._files(f"{key}.*"):
            try:
                if digest(path) != path.name.split(".")[1]:
                    raise ValueError("its digest does not agree")
                found = read(path)
            except (OSError, ValueError) as error:
                say(f"Cache: {path} is not used: {error}. It is made again.")
                self._remove(path)
                continue
            with contextlib.suppress(OSError):
                os.utime(path)
            return found
        return None

    def keep(
        self, key: str, kind: str, write: Callable[[Path], None], *, size_bytes: int, say: Callable[[str], None]
    ) -> bool:
        """Keep the file that ``write`` writes, where there is room; says whether it is kept."""
        if not self.writes or size_bytes > self.most_bytes:
            return False
        aside = self.folder / f"{key}.{os.getpid()}{_PARTIAL}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(aside)
            final = self.folder / f"{key}.{digest(aside)}.{kind}"
            aside.replace(final)
        except OSError as error:
            say(f"Cache: nothing is kept in {self.folder}: {error.strerror or error}.")
            return False
        finally:
            self._remove(aside)
        self._make_room(final)
        return True

    def _files(self, pattern: str) -> list[Path]:
        try:
            return sorted(path for path in self.folder.glob(pattern) if _NAME.fullmatch(path.name))
        except OSError:
            return []

    def _make_room(self, newest: Path) -> None:
        """Remove what was not used for longest, and what a killed run left half written."""
        stats = {}
        for path in (*self._files("*"), *self.folder.glob(f"*{_PARTIAL}")):
            with contextlib.suppress(OSError):  # another run may have removed it
                stats[path] = path.stat()
        used = sum(stat.st_size for stat in stats.values())
        for path, stat in sorted(stats.items(), key=lambda one: one[1].st_mtime):
            abandoned = path.suffix == _PARTIAL and time.time() - stat.st_mtime > _ABANDONED_S
            if abandoned or (used > self.most_bytes and path.suffix != _PARTIAL and path != newest):
                self._remove(path)
                used -= stat.st_size

    def _remove(self, path: Path) -> None:
        if self.writes:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
