"""The words of failures and the causes they speak for: data of ``terms.toml``, checked on load.

They are asked only where no rule of ``causes.toml`` knows a log that ended in a failure. A weight is a judgment written
down beside its reason, not something fitted: 3 hardly means anything else, 2 usually means it, 1 goes with it.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from ongpu.domain.verdict import Cause

_HEAVIEST: Final = 3.0
_TERM_KEYS: Final = frozenset({"id", "words", "speaks_for", "reason"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One meaning. ``words`` are alternatives, each of literals that must all be in one line, in lower case."""

    id: str
    words: tuple[tuple[str, ...], ...]
    speaks_for: Mapping[Cause, float]
    reason: str

    def is_in(self, lowered: str) -> bool:
        """Whether the line, in lower case, has the words of an alternative."""
        return any(all(literal in lowered for literal in alternative) for alternative in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCatalog:
    """Every term. A line with one of ``failing`` says that something failed, one with any of ``empty`` says nothing."""

    failing: tuple[str, ...]
    empty: tuple[str, ...]
    terms: tuple[Term, ...]


def parse_terms(data: bytes) -> TermCatalog:
    """Read ``terms.toml``. Raises :class:`ValueError` naming the term that is wrong."""
    document = tomllib.loads(data.decode("utf-8"))
    terms = tuple(map(_term, document["term"]))
    if len({term.id for term in terms}) != len(terms):
        raise ValueError("terms.toml: an id is used twice")
    failing, empty = tuple(document["failing"]), tuple(document["empty"])
    _check_literals("failing, empty", (*failing, *empty))
    return TermCatalog(failing=failing, empty=empty, terms=terms)


@functools.cache
def load_terms() -> TermCatalog:
    """The shipped catalog, read once."""
    return parse_terms(resources.files("ongpu.catalog").joinpath("terms.toml").read_bytes())


def _term(raw: dict[str, Any]) -> Term:
    where = raw.get("id", "a term without id")
    if set(raw) != _TERM_KEYS:
        raise ValueError(f"terms.toml: {where}: has {sorted(raw)}, needs {sorted(_TERM_KEYS)}")
    words = tuple(tuple(alternative) for alternative in raw["words"])
    for alternative in words:
        _check_literals(where, alternative)
    speaks_for = {Cause(cause): float(weight) for cause, weight in raw["speaks_for"].items()}
    if not all(0 < weight <= _HEAVIEST for weight in speaks_for.values()):
        raise ValueError(f"terms.toml: {where}: a weight is above 0 and at most {_HEAVIEST:.0f}")
    if {Cause.HEALTHY, Cause.UNDETERMINED} & set(speaks_for):
        raise ValueError(f"terms.toml: {where}: the words of a failure speak for a cause")
    return Term(id=raw["id"], words=words, speaks_for=speaks_for, reason=raw["reason"])


def _check_literals(where: str, literals: Iterable[str]) -> None:
    found = tuple(literals)
    if not found or any(not literal or literal != literal.lower() for literal in found):
        raise ValueError(f"terms.toml: {where}: needs lower-case literals, at least one an alternative")
