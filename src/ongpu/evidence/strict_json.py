"""JSON read as evidence must be: one meaning for one sequence of bytes, and bounded.

The standard library's reader keeps the last of two equal keys, takes ``NaN``, turns ``1e999`` into infinity
and lets lone surrogates through; two readers can then see two stories in one file. All of that is refused
here, as are integers that other languages round (beyond 2**53) and nesting that only serves to hurt.
"""

from __future__ import annotations

import json
import math
from typing import Final, NoReturn

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53
_MAX_DIGITS: Final = 17


class StrictJsonError(ValueError):
    """The bytes are not JSON in the strict sense; the message says what and, where known, where."""


def parse(data: bytes) -> object:
    """Read one JSON value from UTF-8 ``data``.

    Raises :class:`StrictJsonError` for anything the strict sense excludes; nothing else is raised whatever
    the bytes are.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"not UTF-8 at byte {error.start}") from None
    try:
        value: object = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise StrictJsonError(f"not JSON: {error}") from None
    _walk(value)
    return value


def parse_object(data: bytes) -> dict[str, object]:
    """Read one JSON object; see :func:`parse`."""
    value = parse(data)
    if not isinstance(value, dict):
        raise StrictJsonError("not a JSON object")
    return value


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StrictJsonError(f"the key {twice[:80]!r} stands twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    # The length is looked at first: int() of a million digits is a way to stall a reader.
    if len(digits) > _MAX_DIGITS or abs(value := int(digits)) > MAX_INTEGER:
        raise StrictJsonError(f"the integer {digits[:24]} is beyond 2**53")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError(f"the number {text[:24]} does not fit a double")
    return value


def _walk(value: object) -> None:
    stack: list[tuple[object, int]] = [(value, 1)]
    while stack:
        here, depth = stack.pop()
        if isinstance(here, str):
            _text(here)
            continue
        if not isinstance(here, (dict, list)):
            continue
        if depth > MAX_DEPTH:
            raise StrictJsonError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(here, dict):
            for key in here:
                _text(key)
            stack.extend((child, depth + 1) for child in here.values())
        else:
            stack.extend((child, depth + 1) for child in here)


def _text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise StrictJsonError(f"a lone surrogate in {text[:40]!r}") from None
