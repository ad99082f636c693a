"""Shapes of journal data: a value of the right type, or an error that names the observation and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ongpu.domain.witness import Observation


class JudgeError(ValueError):
    """An observation that the supervisor cannot have written: the journal is not one of ours, or is damaged."""


def mapping(value: object, one: Observation) -> Mapping[str, object]:
    """An object."""
    if not isinstance(value, Mapping):
        raise JudgeError(f"observation {one.seq} ({one.kind}): an object was expected, not {type(value).__name__}")
    return value


def listed(data: Mapping[str, object], key: str, one: Observation) -> Sequence[object]:
    """A list under ``key``."""
    value = data.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no list")
    return value


def text(data: Mapping[str, object], key: str, one: Observation) -> str:
    """A text under ``key``."""
    value = data.get(key)
    if not isinstance(value, str):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no text")
    return value


def text_or_none(data: Mapping[str, object], key: str, one: Observation) -> str | None:
    """A text, or nothing."""
    return None if data.get(key) is None else text(data, key, one)


def whole(data: Mapping[str, object], key: str, one: Observation) -> int:
    """A whole number from 0 up; ``true`` is none."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no whole number from 0 up")
    return value


def whole_or_none(data: Mapping[str, object], key: str, one: Observation) -> int | None:
    """A whole number from 0 up, or nothing."""
    return None if data.get(key) is None else whole(data, key, one)


def number(data: Mapping[str, object], key: str, one: Observation) -> float:
    """A finite number."""
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is no finite number")
    return float(value)


def flag(data: Mapping[str, object], key: str, one: Observation) -> bool:
    """True or false; false where it is absent."""
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise JudgeError(f"observation {one.seq} ({one.kind}): {key} is neither true nor false")
    return value


def sizes(data: Mapping[str, object], key: str, one: Observation) -> Mapping[str, int]:
    """Bytes by device."""
    found = mapping(data.get(key), one)
    return {device: whole(found, device, one) for device in found}
