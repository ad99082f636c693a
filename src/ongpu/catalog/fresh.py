"""Whether the catalog is still whole: its age, and releases that an index has and it does not know."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from ongpu.domain.build import TorchBuild

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
PYPI_TORCH = "https://pypi.org/simple/torch/"
# Releases came about every six to eight weeks in 2026: after this long one is missing for certain.
STALE_DAYS = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How far the catalog can be trusted to be complete.

    ``unknown`` are releases on the index that the catalog does not have; ``asked`` says whether an index was, and
    ``not_asked`` why none was.
    """

    date: str
    age_days: int
    stale: bool
    asked: bool
    unknown: tuple[str, ...]
    text: str
    not_asked: str | None = None


def freshness(
    builds: Iterable[TorchBuild],
    *,
    today: datetime.date,
    on_index: Iterable[str] | None = None,
    not_asked: str | None = None,
) -> Freshness:
    """Compare the catalog with the day and, where it was asked, with the releases of an index.

    :param on_index: versions an index has, as :func:`releases_of` reads them; ``None`` where none was asked.
    :param not_asked: why none was, for the text.
    """
    rows = list(builds)
    date = max(one.checked for one in rows)
    age = max(0, (today - datetime.date.fromisoformat(date)).days)  # a clock that is behind makes nothing younger
    unknown = unknown_releases(rows, on_index) if on_index is not None else ()
    text = f"The catalog is of {date}, {age} day{'' if age == 1 else 's'} old"
    if unknown:
        text += f", and does not know torch {', '.join(unknown)}: `ongpu catalog update` reads them"
    elif on_index is not None:
        text += "; the index has no newer release"
    elif age > STALE_DAYS:
        text += ": releases it does not know are to be expected"
    if on_index is None and not_asked is not None:
        text += f"; whether there are newer releases is not known: {not_asked}"
    return Freshness(
        date=date,
        age_days=age,
        stale=bool(unknown) or age > STALE_DAYS,
        asked=on_index is not None,
        unknown=unknown,
        text=f"{text}.",
        not_asked=not_asked if on_index is None else None,
    )


def releases_of(document: bytes) -> tuple[str, ...]:
    """The final releases in an index's JSON answer (PEP 691), oldest first.

    Raises :class:`ValueError` for a document that is none. Yanked releases and pre-releases do not count.
    """
    found = json.loads(document)
    if not isinstance(found, dict) or not isinstance(found.get("files"), list):
        raise ValueError("this is no PEP 691 document: it has no list of files")
    versions: set[Version] = set()
    for file in found["files"]:
        name = file.get("filename", "") if isinstance(file, dict) else ""
        if not name.endswith(".whl") or file.get("yanked"):
            continue
        try:
            versions.add(Version(name.split("-")[1]))
        except (InvalidVersion, IndexError):
            continue
    return tuple(str(one) for one in sorted(versions) if not one.is_prerelease)


def unknown_releases(builds: Iterable[TorchBuild], on_index: Iterable[str]) -> tuple[str, ...]:
    """Releases newer than the oldest of the catalog that it does not have, oldest first."""
    known = {Version(one.torch) for one in builds}
    oldest = min(known)
    seen = {Version(Version(one).base_version) for one in on_index}
    return tuple(str(one) for one in sorted(seen - known) if one > oldest)
