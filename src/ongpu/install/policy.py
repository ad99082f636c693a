"""Which packages a GPU-safe install leaves out: a table with reasons, read from ``policy.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from ongpu.errors import UsageError

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One row: the names it excludes, why, and who says so."""

    kind: str
    names: tuple[str, ...]
    reason: str
    source: str
    read: str


def policy() -> tuple[PolicyRow, ...]:
    """The table. Raises :class:`ValueError` naming the row where the data is not consistent."""
    return parse_policy((Path(__file__).parent / "policy.toml").read_text("utf-8"))


def parse_policy(text: str) -> tuple[PolicyRow, ...]:
    """Read the table from its text; every row complete, ordered, no name twice."""
    rows = []
    seen: set[str] = set()
    for number, row in enumerate(tomllib.loads(text)["row"]):
        missing = {"kind", "names", "reason", "source", "read"} - set(row)
        if missing or not all(row.values()):
            raise ValueError(f"policy row {number} lacks {sorted(missing) or 'a value'}")
        names = tuple(row["names"])
        wrong = [one for one in names if not _NAME.match(one)]
        if wrong or list(names) != sorted(set(names)) or seen & set(names):
            raise ValueError(f"policy row {number}: {wrong or 'names are not in order, or one is there twice'}")
        seen |= set(names)
        rows.append(
            PolicyRow(kind=row["kind"], names=names, reason=row["reason"], source=row["source"], read=row["read"])
        )
    return tuple(rows)


def row_for(name: str, rows: Iterable[PolicyRow]) -> PolicyRow | None:
    """The row that excludes ``name``, if one does."""
    key = canonicalize_name(name)
    return next((row for row in rows if key in row.names), None)


def allowed_names(allow: Iterable[str], rows: tuple[PolicyRow, ...]) -> frozenset[str]:
    """``--allow`` values, normalized. Raises :class:`UsageError` for one that the policy does not exclude."""
    names = set()
    for one in allow:
        key = str(canonicalize_name(one.strip()))
        if row_for(key, rows) is None:
            known = ", ".join(name for row in rows for name in row.names)
            raise UsageError(
                f"--allow {one!r} names nothing that is excluded.",
                next_step=f"Excluded are: {known}. Name one of them.",
            )
        names.add(key)
    return frozenset(names)
