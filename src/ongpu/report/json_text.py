"""A value as its document and as text. Apart from the schemas, so that a quick answer does not wait for their rooms."""

from __future__ import annotations

import json
from typing import Any

from ongpu.domain.plain import plain


def schema_name(command: str) -> str:
    """``ongpu/probe/1``."""
    return f"ongpu/{command}/1"


def to_document(command: str, value: object) -> dict[str, Any]:
    """The document of a value: plain dicts, lists, text and numbers, ``schema`` first."""
    fields = plain(value)
    if not isinstance(fields, dict):
        raise TypeError(f"the document of {command} must be an object, not {type(fields).__name__}")
    return {"schema": schema_name(command), **fields}


def to_json(command: str, value: object) -> str:
    """The document as text, indented by two, with a final newline."""
    return json.dumps(to_document(command, value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
