"""Keeping the catalog true: asking PyPI for releases it does not know, and reading their wheels in parts."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from urllib.parse import unquote

from ongpu.catalog.fresh import PYPI_TORCH, SIMPLE_JSON, releases_of
from ongpu.catalog.update import LocalFile, RemoteFile, pythons_of, read_wheel
from ongpu.domain.build import TorchBuild
from ongpu.errors import DoorError, UsageError, WorkError
from ongpu.machine.web import Web

_INDEX_LIMIT_BYTES = 64 << 20
_BLOCK_LIMIT_BYTES = 8 << 20
# The files of one release that differ in what they were built for; which Python is read does not matter.
_PLATFORMS = (
    ("manylinux_2_28_x86_64", "manylinux1_x86_64"),
    ("manylinux_2_28_aarch64", "manylinux2014_aarch64"),
    ("win_amd64",),
)


def releases_on_pypi(web: Web, *, timeout_s: float = 10.0, url: str = PYPI_TORCH) -> tuple[str, ...]:
    """The final torch releases PyPI has, oldest first.

    :raises DoorError: where it cannot be asked; the caller says so and goes on with the catalog it has.
    """
    document = web.get(url, timeout_s=timeout_s, limit_bytes=_INDEX_LIMIT_BYTES, accept=SIMPLE_JSON)
    try:
        return releases_of(document)
    except ValueError as error:
        raise DoorError(door="index", code="bad-answer", reason=f"{url}: {error}") from error


def read_target(target: str, *, web: Web, today: datetime.date, timeout_s: float = 300.0) -> tuple[TorchBuild, ...]:
    """Rows for what a person names: a wheel on this machine, the URL of one, or a release on PyPI (``2.16.0``).

    :raises UsageError: for a file or a release that does not exist.
    :raises WorkError: for one that cannot be fetched, or is no torch wheel.
    """
    try:
        if target.startswith(("https://", "http://")):
            return (_read_url(target, web=web, today=today, timeout_s=timeout_s, on_pypi=_is_pypi(target)),)
        if target.endswith(".whl"):
            return (_read_file(Path(target), today=today),)
        return _read_release(target, web=web, today=today, timeout_s=timeout_s)
    except DoorError as error:
        raise WorkError(
            f"{target!r} could not be fetched: {error.reason}.",
            next_step="Check the network and the address, or download the wheel and name the file.",
        ) from error


def _read_file(path: Path, *, today: datetime.date) -> TorchBuild:
    try:
        with path.open("rb") as file:
            return read_wheel(LocalFile(file), file_name=path.name, checked=today.isoformat(), on_pypi=False)
    except FileNotFoundError:
        raise UsageError(f"There is no file {str(path)!r}.", next_step="Name a torch wheel that exists.") from None
    except IsADirectoryError:
        raise UsageError(f"{str(path)!r} is a folder.", next_step="Name a torch wheel.") from None


def _read_url(
    url: str, *, web: Web, today: datetime.date, timeout_s: float, on_pypi: bool, pythons: tuple[str, ...] = ()
) -> TorchBuild:
    def fetch(first: int, last: int) -> bytes:
        return web.get(url, timeout_s=timeout_s, limit_bytes=_BLOCK_LIMIT_BYTES, first_byte=first, last_byte=last)

    name = unquote(url.split("#", maxsplit=1)[0].split("?", maxsplit=1)[0].rsplit("/", 1)[-1])
    remote = RemoteFile(size_bytes=web.size_bytes(url, timeout_s=timeout_s), fetch=fetch)
    return read_wheel(remote, file_name=name, checked=today.isoformat(), on_pypi=on_pypi, pythons=pythons)


def _read_release(release: str, *, web: Web, today: datetime.date, timeout_s: float) -> tuple[TorchBuild, ...]:
    document = web.get(PYPI_TORCH, timeout_s=timeout_s, limit_bytes=_INDEX_LIMIT_BYTES, accept=SIMPLE_JSON)
    try:
        known = releases_of(document)
        files = {one["filename"]: one["url"] for one in json.loads(document)["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DoorError(door="index", code="bad-answer", reason=f"{PYPI_TORCH}: {error!r}") from error
    if release not in known:
        raise UsageError(
            f"PyPI has no torch release {release!r}.",
            next_step=f"Its newest is {known[-1] if known else 'none'}; or name a wheel file or its URL.",
        )
    found = []
    for names in _PLATFORMS:
        platform = next((one for one in names if pythons_of(files, release=release, platform=one)), names[0])
        pythons = pythons_of(files, release=release, platform=platform)
        name = next((one for one in sorted(files) if one.startswith(f"torch-{release}-") and platform in one), None)
        if name is not None and pythons:
            found.append(
                _read_url(files[name], web=web, today=today, timeout_s=timeout_s, on_pypi=True, pythons=pythons)
            )
    if not found:
        raise WorkError(
            f"torch {release} has no wheel on PyPI for a platform with NVIDIA GPUs.",
            next_step="Name the URL of a wheel of PyTorch's own index.",
        )
    return tuple(found)


def _is_pypi(url: str) -> bool:
    return url.startswith("https://files.pythonhosted.org/")
