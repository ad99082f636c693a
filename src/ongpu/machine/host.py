"""The door to the host: files that the kernel writes, the environment it was given, and what Python knows of it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ongpu.errors import DoorError

# The files asked for are a few lines long; whatever is longer is not one of them.
_READ_LIMIT_BYTES = 1 << 20
_OS = {"linux": "linux", "win32": "windows", "darwin": "macos", "cygwin": "windows"}
_ARCH = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What Python knows of its host.

    ``os`` is ``linux``, ``windows`` or ``macos``, or Python's own word for another; ``arch`` is ``x86_64``,
    ``aarch64``, or the machine's own word; ``glibc`` is ``2.36``, ``None`` where the C library is another one.
    ``executable`` and ``version`` are those of the Python that runs the tool.
    """

    os: str
    arch: str
    glibc: str | None
    executable: str
    version: str
    free_threaded: bool = False
    environment: str | None = None


class Host(Protocol):
    """What the rooms ask of the host. Paths are text: a host may be another system than the one that asks."""

    def read_text(self, path: str) -> str:
        """A text file, at most 1 MiB of it.

        :raises DoorError: door ``file``; code ``missing``, ``permission`` or ``unreadable``.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether something is at a path, as far as this user can see."""
        ...

    def list_dir(self, path: str, *, prefix: str = "") -> tuple[str, ...]:
        """The sorted names in a folder that begin with ``prefix``. :raises DoorError: as ``read_text``."""
        ...

    def real_path(self, path: str) -> str:
        """The path with every link followed."""
        ...

    def mapped_file(self, name: str) -> str | None:
        """The file whose name begins with ``name`` and that this process has loaded; None where nothing tells."""
        ...

    def sha256(self, path: str) -> str:
        """The digest of a file, in hexadecimal. :raises DoorError: as ``read_text``."""
        ...

    def environment(self) -> Mapping[str, str]:
        """The environment variables the tool was given."""
        ...

    def platform(self) -> PlatformFacts:
        """What Python knows of its host."""
        ...


class RealHost:
    """This host.

    :param environment: the environment variables; the caller reads them, since this floor does not.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def read_text(self, path: str) -> str:
        """A text file; see :meth:`Host.read_text`."""
        try:
            with Path(path).open("rb") as file:
                return file.read(_READ_LIMIT_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            raise _file_error(path, error) from error

    def exists(self, path: str) -> bool:
        """Whether something is at a path."""
        try:
            return Path(path).exists()
        except (OSError, ValueError):
            return False

    def list_dir(self, path: str, *, prefix: str = "") -> tuple[str, ...]:
        """The sorted names in a folder."""
        try:
            return tuple(sorted(name for name in os.listdir(path) if name.startswith(prefix)))  # noqa: PTH208 - names
        except (OSError, ValueError) as error:
            raise _file_error(path, error) from error

    def real_path(self, path: str) -> str:
        """The path with every link followed."""
        return os.path.realpath(path)

    def mapped_file(self, name: str) -> str | None:
        """The file whose name begins with ``name`` and that this process has loaded."""
        try:
            maps = Path("/proc/self/maps").read_text("utf-8", "replace")
        except OSError:  # not Linux
            return None
        paths = (line.split(None, 5)[5] for line in maps.splitlines() if line.count("/") > 0)
        return next((os.path.realpath(path) for path in paths if Path(path).name.startswith(name)), None)

    def sha256(self, path: str) -> str:
        """The digest of a file."""
        try:
            with Path(path).open("rb") as file:
                import hashlib  # noqa: PLC0415 - loads OpenSSL: what asks for no digest does without

                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise _file_error(path, error) from error

    def environment(self) -> Mapping[str, str]:
        """The environment variables the tool was given."""
        return self._environment

    def platform(self) -> PlatformFacts:
        """What Python knows of its host."""
        machine = platform.machine()
        return PlatformFacts(
            os=_OS.get(sys.platform, sys.platform),
            arch=_ARCH.get(machine.lower(), machine.lower()),
            glibc=_glibc(),
            executable=sys.executable,
            version=platform.python_version(),
            free_threaded=_free_threaded(),
            environment=sys.prefix if sys.prefix != sys.base_prefix else None,
        )


def _file_error(path: str, error: OSError | ValueError) -> DoorError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            code = "missing"
        case PermissionError():
            code = "permission"
        case _:
            code = "unreadable"
    said = error.strerror if isinstance(error, OSError) else str(error)
    return DoorError(door="file", code=code, reason=f"{path}: {said}")


def _free_threaded() -> bool:
    if not hasattr(sys, "_is_gil_enabled"):  # before 3.13 there was no such build
        return False
    import sysconfig  # noqa: PLC0415 - reads 40 KB of settings for one

    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _glibc() -> str | None:
    """The version of the running C library, from itself; ``None`` for musl and outside Linux."""
    if sys.platform == "win32":
        return None
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None
    return said.removeprefix("glibc").strip() if said and said.startswith("glibc") else None
