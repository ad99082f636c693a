"""The causes and the rules that find them in a log: data of ``causes.toml``, checked for consistency on load.

A rule is matched against one line at a time, in lower case, by literal substrings only: nothing here can
backtrack. ``match`` is a list of alternatives, each a list of literals that must all be in the line.
"""

from __future__ import annotations

import enum
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, Final

from ongpu.domain.verdict import Cause

PLATFORMS: Final = ("linux", "windows", "wsl")


class Strength(enum.IntEnum):
    """How much one matching line says, weakest first."""

    WEAK = 1
    STRONG = 2
    DECISIVE = 3


class Basis(enum.StrEnum):
    """Where the text of a rule is from."""

    OBSERVED = "observed"
    SOURCE = "source"
    DOCUMENTED = "documented"
    REPORTED = "reported"
    INFERRED = "inferred"


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseFact:
    """What is said about a cause.

    ``explains`` names the causes whose signs this cause brings about, so that they are not a second cause.
    ``outlives_progress`` is true where a training that goes on does not refute the cause: the GPU is unused, the
    program runs all the same.
    """

    cause: Cause
    meaning: str
    next_step: Mapping[str, str]
    question: str
    explains: frozenset[Cause]
    outlives_progress: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``cause`` is ``None`` for a rule that only gives context to others.

    ``needs`` and ``unless`` name rules that must, or must not, have fired anywhere in the log; ``near`` names
    rules of which one must have fired at most ``within`` lines before (or ``after`` lines after) the hit, and
    ``not_near`` those of which none may have. ``codes`` are the numbers that ``{code}`` in a literal stands for.
    """

    id: str
    cause: Cause | None
    strength: Strength
    match: tuple[tuple[str, ...], ...]
    codes: tuple[int, ...]
    none: tuple[str, ...]
    needs: tuple[str, ...]
    unless: tuple[str, ...]
    near: tuple[str, ...]
    not_near: tuple[str, ...]
    within: int
    after: int
    made_for: str
    versions: str
    source: str
    basis: Basis
    place: str
    next_step: Mapping[str, str]
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseCatalog:
    """Every cause and every rule, in the order of the file: nearest to the root first.

    A line with one of ``hypothetical`` speaks of what might be: rules with a cause do not look at it.
    """

    causes: Mapping[Cause, CauseFact]
    rules: tuple[Rule, ...]
    hypothetical: tuple[str, ...]


# Contexts that the engine itself derives from the facts of a log; rules may name them like other rules.
DERIVED: Final = frozenset(
    {
        "fact-gpu-covered",
        "fact-gpu-not-covered",
        "fact-driver-below-runtime",
        "fact-driver-serves-runtime",
        "fact-torch-cpu",
        "fact-torch-cuda",
        "fact-gpu-dropped-by-driver",
        "fact-gpu-pre-turing",
        "fact-gpu-turing-or-newer",
        "fact-steps-to-the-end",
        "fact-nothing-failed",
        "fact-gpu-by-ptx-only",
    }
)
# What a literal may hold for a number of the rule's ``codes``: any of them, or only one too large to be met by chance.
ANY_CODE: Final = "{code}"
LARGE_CODE: Final = "{large}"
# Any number whatever.
NUMBER: Final = "{number}"
_SMALLEST_LARGE_CODE: Final = 35
# How programs print the number of a CUDA error.
_CUDA_FORMS: Final = (
    ("cuda runtime error ({code})",),
    ("cuda", "({code} vs. 0)"),
    ("cuda", "code={code}("),
    *(
        (maker, form)
        for maker in ("cuda", "cuinit", "nvml")
        for form in (
            "error {large}",
            "error={large}",
            "error: {large}",
            "error ({large})",
            "error code {large}",
            "error code: {large}",
            "error code={large}",
            "failure: {large}",
            "err: {large}",
            "status: {large}",
            "returned {large}",
            "return value {large}",
            "return code {large}",
            "error number {large}",
            "status {large}",
        )
    ),
)
_XID_FORMS: Final = (("xid", "): {code}"), ("xid {code}",), ("xid: {code}",), ("xid={code}",), ("xid error {code}",))
# Where the name of a package stands in a traceback: Python's frames, paths of any tool, native frames of Windows.
_FRAMES: Final = ('file "', "-packages")
_RULE_KEYS: Final = frozenset(field.name for field in fields(Rule)) | {"xids", "frames"}


def parse_causes(data: bytes) -> CauseCatalog:
    """Read ``causes.toml``. Raises :class:`ValueError` naming the rule and the field that is wrong."""
    document = tomllib.loads(data.decode("utf-8"))
    causes = {fact.cause: fact for fact in map(_cause, document["cause"])}
    missing = set(Cause) - set(causes)
    if missing:
        raise ValueError(f"causes.toml: no entry for {sorted(missing)}")
    lines = {raw["id"]: raw["match"] for raw in document["rule"] if isinstance(raw["match"], list)}
    rules = tuple(_rule(raw | {"match": lines.get(str(raw["match"]), raw["match"])}) for raw in document["rule"])
    _check(rules)
    return CauseCatalog(causes=causes, rules=rules, hypothetical=tuple(document.get("hypothetical", ())))


@functools.cache
def load_causes() -> CauseCatalog:
    """The shipped catalog, read once."""
    return parse_causes(resources.files("ongpu.catalog").joinpath("causes.toml").read_bytes())


def _platforms(raw: str | dict[str, str], *, where: str) -> Mapping[str, str]:
    if isinstance(raw, str):
        return {"any": raw} if raw else {}
    unknown = set(raw) - {"any", *PLATFORMS}
    if unknown or "any" not in raw:
        raise ValueError(f"causes.toml: {where}: next_step needs 'any' and knows only {PLATFORMS}, not {unknown}")
    return dict(raw)


def _cause(raw: dict[str, Any]) -> CauseFact:
    return CauseFact(
        cause=Cause(raw["id"]),
        meaning=raw["meaning"],
        next_step=_platforms(raw["next_step"], where=raw["id"]),
        question=raw.get("question", ""),
        explains=frozenset(map(Cause, raw.get("explains", []))),
        outlives_progress=raw.get("outlives_progress", False),
    )


def _rule(raw: dict[str, Any]) -> Rule:
    where = raw.get("id", "a rule without id")
    if set(raw) - _RULE_KEYS:
        raise ValueError(f"causes.toml: {where}: unknown fields {sorted(set(raw) - _RULE_KEYS)}")
    codes, xids = raw.get("codes", []), raw.get("xids", [])
    if codes and xids:
        raise ValueError(f"causes.toml: {where}: give codes or xids, not both: one number means different things")
    forms = _XID_FORMS if xids else _CUDA_FORMS if codes else ()
    met = [form for form in forms if all(spelled(literal, (*codes, *xids)) for literal in form)]
    frames = ((where_named, name) for where_named in _FRAMES for name in raw.get("frames", []))
    match = (*(tuple(group) for group in raw["match"]), *frames, *met)
    if not match or any(
        not group or any(not literal or literal != literal.lower() for literal in group) for group in match
    ):
        raise ValueError(f"causes.toml: {where}: match needs lower-case literals, at least one a group")
    return Rule(
        id=raw["id"],
        cause=Cause(raw["cause"]) if raw.get("cause") else None,
        strength=Strength[raw.get("strength", "strong").upper()],
        match=match,
        codes=(*codes, *xids),
        none=tuple(raw.get("none", [])),
        needs=tuple(raw.get("needs", [])),
        unless=tuple(raw.get("unless", [])),
        near=tuple(raw.get("near", [])),
        not_near=tuple(raw.get("not_near", [])),
        within=raw.get("within", 60),
        after=raw.get("after", 5),
        made_for=raw["made_for"],
        versions=raw.get("versions", "not known"),
        source=raw["source"],
        basis=Basis(raw["basis"]),
        place=raw["place"],
        next_step=_platforms(raw.get("next_step", ""), where=where),
        question=raw.get("question", ""),
    )


def spelled(literal: str, codes: tuple[int, ...]) -> tuple[str, ...]:
    """The literal with each of the codes it may hold; just itself where it holds none."""
    if ANY_CODE in literal:
        return tuple(literal.replace(ANY_CODE, str(code)) for code in codes)
    if LARGE_CODE in literal:
        large = [code for code in codes if code >= _SMALLEST_LARGE_CODE]
        return tuple(literal.replace(LARGE_CODE, str(code)) for code in large)
    return (literal,)


def is_plain(literal: str) -> bool:
    """Whether a literal is to be found as it stands, with no number to fill in."""
    return not any(mark in literal for mark in (ANY_CODE, LARGE_CODE, NUMBER))


def as_pattern(literal: str, codes: tuple[int, ...]) -> str:
    """The literal as a regular expression: alternatives of fixed text and single runs of digits, linear to match."""
    found = "|".join(re.escape(one).replace(re.escape(NUMBER), "(?<![0-9])[0-9]++") for one in spelled(literal, codes))
    return f"(?:{found})" if is_plain(literal) or NUMBER in literal else f"(?:{found})(?![0-9])"


def _check(rules: tuple[Rule, ...]) -> None:
    known = {rule.id for rule in rules} | DERIVED
    if len({rule.id for rule in rules}) != len(rules):
        raise ValueError("causes.toml: a rule id is used twice")
    for rule in rules:
        named = {*rule.needs, *rule.unless, *rule.near, *rule.not_near}
        if named - known:
            raise ValueError(f"causes.toml: {rule.id}: names unknown rules {sorted(named - known)}")
        sample = rule.made_for.lower()
        hit = any(all(re.search(as_pattern(literal, rule.codes), sample) for literal in group) for group in rule.match)
        if not hit or any(literal in sample for literal in rule.none):
            raise ValueError(f"causes.toml: {rule.id}: does not match the very output it was made for")
