"""The documents of ``plan`` and ``catalog``: a decision with the catalog's age, and the catalog itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ongpu.catalog.fresh import Freshness
from ongpu.domain.build import Decision, TorchBuild


@dataclass(frozen=True, slots=True, kw_only=True)
class LockDocument:
    """The lock that ``plan --lock`` wrote. ``form`` is ``pylock`` or ``requirements``."""

    path: str
    form: str
    packages: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDocument(Decision):
    """The answer of ``ongpu plan``.

    ``recipe_file`` is where ``--recipe`` wrote the build script; ``lines`` what ``--lines`` asked for.
    """

    catalog: Freshness
    lock: LockDocument | None = None
    recipe_file: str | None = None
    lines: str | None = None


def plan_document(
    decision: Decision,
    *,
    catalog: Freshness,
    lock: LockDocument | None = None,
    recipe_file: str | None = None,
    lines: str | None = None,
) -> PlanDocument:
    """A decision as its document."""
    fields = {one.name: getattr(decision, one.name) for one in dataclasses.fields(decision)}
    return PlanDocument(**fields, catalog=catalog, lock=lock, recipe_file=recipe_file, lines=lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogDocument:
    """The answer of ``ongpu catalog``.

    ``tables`` counts the rows of each table, ``evidence`` the builds by how their code targets are known;
    ``own_rows`` are the builds that the user's own file ``rows_file`` adds or replaces.
    """

    catalog: Freshness
    newest: str
    tables: dict[str, int]
    evidence: dict[str, int]
    rows_file: str | None
    own_rows: tuple[TorchBuild, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogUpdateDocument:
    """The answer of ``ongpu catalog update``: the rows that were read from wheels, and the file that has them now."""

    rows_file: str
    read: tuple[TorchBuild, ...]
    problems: tuple[str, ...]
    rows_in_file: int
