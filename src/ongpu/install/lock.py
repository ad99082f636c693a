"""Reading uv's ``pylock.toml`` (PEP 751): which file of which package, with its hash."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """One package of a resolution.

    ``location`` is the URL, or for wheels of a local folder the path, as written (it may hold secrets).
    ``kind`` is ``wheel``, ``archive`` (asked for by URL), ``sdist``, ``vcs`` or ``directory``.
    """

    name: str
    version: str | None
    kind: str
    location: str | None
    sha256: str | None
    size_bytes: int | None = None
    marker: str | None = None

    @property
    def label(self) -> str:
        """The local label of the version: ``cu126``, ``cpu``, or empty."""
        return (self.version or "").partition("+")[2]


# [[packages]]
# name = "torch"
# version = "2.14.1"
# wheels = [{ url = "https://files.pythonhosted.org/...whl", size = 554581699, hashes = { sha256 = "305a..." } }]
def parse_lock(text: str) -> tuple[Locked, ...]:
    """The packages of a lock, by name. Raises :class:`ValueError` where it is not one."""
    table = tomllib.loads(text)
    if not str(table.get("lock-version", "")).startswith("1."):
        raise ValueError(f"lock-version {table.get('lock-version')!r} is not 1.x")
    return tuple(sorted((_locked(row) for row in table.get("packages", [])), key=lambda one: one.name))


def _locked(row: dict[str, Any]) -> Locked:
    wheels = row.get("wheels") or []
    if len(wheels) > 1:  # uv writes the one it will take; which of several would be is not for us to guess
        return Locked(
            name=row["name"],
            version=row.get("version"),
            kind="wheel",
            location=None,
            sha256=None,
            marker=row.get("marker"),
        )
    candidates: tuple[tuple[str, dict[str, Any] | None], ...] = (
        ("wheel", wheels[0] if wheels else None),
        ("archive", row.get("archive")),
        ("directory", row.get("directory")),
        ("vcs", row.get("vcs")),
        ("sdist", row.get("sdist")),
    )
    nothing: dict[str, Any] = {}
    kind, file = next(((kind, found) for kind, found in candidates if found), ("unknown", nothing))
    return Locked(
        name=row["name"],
        version=row.get("version"),
        kind=kind,
        location=file.get("url") or file.get("path"),
        sha256=(file.get("hashes") or {}).get("sha256"),
        size_bytes=file.get("size"),
        marker=row.get("marker"),
    )


def tag_order(
    version: tuple[int, int], *, free_threaded: bool, platforms: tuple[str, ...] | None = None
) -> dict[str, int]:
    """The wheel tags a CPython accepts, each with its rank, best first.

    :param platforms: platform tags, best first; ``None`` for those of this machine.
    """
    interpreter = f"cp{version[0]}{version[1]}"
    abis = [interpreter + "t"] if free_threaded else None
    tags = [
        *cpython_tags(python_version=version, abis=abis, platforms=platforms),
        *compatible_tags(python_version=version, interpreter=interpreter, platforms=platforms),
    ]
    return {str(tag): rank for rank, tag in enumerate(tags)}


def narrowed(text: str, order: Mapping[str, int]) -> str:
    """A lock with one wheel for each package: where uv lists several that fit, the one with the best tag stays.

    uv takes the best one itself, but does not say which; with one left, the report knows the very file. A package
    whose best wheel is not unique keeps all of its lines.
    """
    lines = text.splitlines(keepends=True)
    for row in tomllib.loads(text).get("packages", []):
        urls = [str(wheel["url"]) for wheel in row.get("wheels") or [] if "url" in wheel]
        if len(urls) < 2:
            continue
        ranks = {url: _rank(url, order) for url in urls}
        best = min(urls, key=ranks.__getitem__)
        if list(ranks.values()).count(ranks[best]) == 1 and ranks[best] < len(order):
            others = tuple(f'url = "{url}"' for url in urls if url != best)
            lines = [
                line for line in lines if not line.strip().startswith("{") or not any(one in line for one in others)
            ]
    return "".join(lines)


def _rank(url: str, order: Mapping[str, int]) -> int:
    try:
        *_, tags = parse_wheel_filename(unquote(urlsplit(url).path.rpartition("/")[2]))
    except InvalidWheelFilename:
        return len(order)
    return min((order.get(str(tag), len(order)) for tag in tags), default=len(order))
