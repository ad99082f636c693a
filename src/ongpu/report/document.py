"""A command's answer as its one JSON document, and the JSON Schema of that document.

The value classes of the floors below are the contract: the document is the value's own fields behind
``"schema": "ongpu/<command>/1"``. Compute capabilities and code targets travel as their text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import msgspec

from ongpu.domain.arch import CodeTarget, ComputeCapability
from ongpu.domain.verdict import Verdict, Witness
from ongpu.errors import UsageError
from ongpu.evidence.check import CheckReport
from ongpu.report.json_text import schema_name

_T = TypeVar("_T")
_AS_TEXT = (ComputeCapability, CodeTarget)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDocument:
    """The answer of ``ongpu run``: ``verdict.json`` in its bundle."""

    run_id: str
    verdict: Verdict
    witnesses: tuple[Witness, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeDocument:
    """The answer of ``ongpu challenge``: the nonce, and the training seed that follows from it."""

    nonce: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDocument:
    """The answer of ``ongpu report``: where the page is, and how the check before it ended."""

    page: str
    size_bytes: int
    check: CheckReport


def from_json(data: bytes, kind: type[_T], *, what: str) -> _T:
    """Read a value back from a document or from its bare fields.

    Raises :class:`UsageError` with the path of the bad value; ``what`` names the input for people.
    """
    try:
        raw = msgspec.json.decode(data)
        if isinstance(raw, dict):
            raw.pop("schema", None)
        return msgspec.convert(raw, kind, dec_hook=_decode, strict=True)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise UsageError(
            f"{what} is not a {kind.__name__.lower()} document: {error}.",
            next_step="Give a file that this version of ongpu wrote.",
        ) from error


def schema(command: str, kind: type) -> dict[str, Any]:
    """The JSON Schema of a command's document (draft 2020-12)."""
    made = msgspec.json.schema(kind, schema_hook=_describe)
    definitions = dict(made.get("$defs", {}))
    if "RuntimeVersion" in definitions:  # a dataclass that travels as its text, as plain() writes it
        definitions["RuntimeVersion"] = {"type": "string", "pattern": r"^\d{1,2}\.\d{1,2}$"}
    reference = str(made.get("$ref", "")).rsplit("/", 1)[-1]
    body = dict(definitions.pop(reference)) if reference else dict(made)
    for one in (body, *definitions.values()):
        if "properties" in one:
            one["required"] = list(one["properties"])  # a document always carries every field, null where unread
    body["properties"] = {"schema": {"const": schema_name(command)}, **body.get("properties", {})}
    body["required"] = ["schema", *body["required"]]
    body["title"] = schema_name(command)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "$defs": definitions}


def error_schema(command: str) -> dict[str, Any]:
    """The JSON Schema of the document a command prints in place of its own when it stops with an error."""
    text = {"type": "string"}
    body = {
        "type": "object",
        "properties": {
            "message": text,
            "next_step": text,
            "cause": {"anyOf": [text, {"type": "null"}]},
            "exit_status": {"type": "integer"},
        },
        "required": ["message", "next_step", "cause", "exit_status"],
    }
    properties = {"schema": {"const": schema_name(command)}, "error": body}
    return {"type": "object", "properties": properties, "required": ["schema", "error"]}


def _decode(kind: type, value: object) -> object:
    if kind in _AS_TEXT and isinstance(value, str):
        return kind.parse(value)
    if issubclass(kind, PurePath) and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no way to read a {kind.__name__}")


def _describe(kind: type) -> dict[str, Any]:
    if kind is object:
        return {"description": "any JSON value"}
    if kind is ComputeCapability:
        return {"type": "string", "pattern": r"^\d{1,2}\.\d$"}
    if kind is CodeTarget:
        return {"type": "string", "pattern": r"^(sm|compute|lto)_\d{2,3}[af]?$"}
    if issubclass(kind, PurePath):
        return {"type": "string"}
    raise NotImplementedError(f"no schema for {kind.__name__}")
