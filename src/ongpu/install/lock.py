"""Reading uv's ``pylock.toml`` (PEP 751): which file of which package, with its hash."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any


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
