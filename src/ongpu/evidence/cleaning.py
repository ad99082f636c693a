"""Making a value fit for a journal line: redacted, finite, without lone surrogates, of bounded size.

What had to be replaced is named in the value itself, under ``replaced``: a journal never hides that something
else was seen than what it can carry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from ongpu.domain.plain import plain
from ongpu.evidence.strict_json import MAX_DEPTH, MAX_INTEGER

# The line adds two levels around a value (the record, its data).
_DEPTH: Final = MAX_DEPTH - 2
_MAX_TEXT: Final = 1 << 16
_MAX_NOTES: Final = 32


def clean(data: Mapping[str, object], redact: Callable[[str], str]) -> dict[str, object]:
    """A copy of ``data`` that strict JSON can carry, every string through ``redact``.

    Replaced: a float that is not finite (null), an integer beyond 2**53 (its digits), a lone surrogate
    (U+FFFD), a text beyond 64 KiB (its beginning), a value nested too deep (null), an object of a type JSON
    does not know (its text). Each is named in ``replaced`` as ``path: reason``.
    """
    notes: list[str] = []
    cleaned = _mapping(data, redact, "", 1, notes)
    if notes:
        more = [f"and {len(notes) - _MAX_NOTES} more"] if len(notes) > _MAX_NOTES else []
        cleaned["replaced"] = notes[:_MAX_NOTES] + more
    return cleaned


def _mapping(
    data: Mapping[str, object], redact: Callable[[str], str], path: str, depth: int, notes: list[str]
) -> dict[str, object]:
    cleaned = {}
    for key, value in data.items():
        name = _text(str(key), redact, path, notes)
        cleaned[name] = _value(value, redact, f"{path}.{name}" if path else name, depth + 1, notes)
    return cleaned


def _value(value: object, redact: Callable[[str], str], path: str, depth: int, notes: list[str]) -> object:
    match value:
        case None | bool():
            return value
        case str():
            return _text(str(value), redact, path, notes)
        case int():
            if abs(value) <= MAX_INTEGER:
                return int(value)
            notes.append(f"{path}: an integer beyond 2**53")
            return str(int(value)) if abs(value).bit_length() <= 512 else None
        case float():
            if math.isfinite(value):
                return float(value)
            notes.append(f"{path}: {value}")
            return None
        case Mapping() | list() | tuple():
            if depth > _DEPTH:
                notes.append(f"{path}: nested deeper than {_DEPTH}")
                return None
            if isinstance(value, Mapping):
                return _mapping(value, redact, path, depth, notes)
            return [
                _value(child, redact, f"{path}[{position}]", depth + 1, notes) for position, child in enumerate(value)
            ]
        case bytes():
            notes.append(f"{path}: bytes")
            return _text(value.decode("utf-8", "replace"), redact, path, notes)
        case _:
            try:
                known = plain(value)
            except TypeError:
                notes.append(f"{path}: {type(value).__name__}")
                known = str(value)
            return _value(known, redact, path, depth, notes)


def _text(text: str, redact: Callable[[str], str], path: str, notes: list[str]) -> str:
    text = redact(text)
    if not text.isascii():
        sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if sound != text:
            notes.append(f"{path}: a lone surrogate")
            text = sound
    if len(text) > _MAX_TEXT:
        notes.append(f"{path}: a text of {len(text)} characters")
        text = text[:_MAX_TEXT]
    return text
