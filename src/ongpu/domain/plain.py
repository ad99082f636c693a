"""Any value of ours as plain data: what a journal line and a JSON document are written from."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ongpu.domain.arch import CodeTarget, ComputeCapability, RuntimeVersion


def plain(value: object) -> object:
    """Dataclasses to dicts by field, capabilities and code targets to their text, tuples to lists.

    Raises :class:`TypeError` naming the class for anything that has no plain form: nothing is guessed.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case enum.Enum():
            return plain(value.value)
        case str():
            return value
        case ComputeCapability() | CodeTarget() | RuntimeVersion() | PurePath():
            return str(value)
        case Mapping():
            return {str(plain(key)): plain(one) for key, one in value.items()}
        case Sequence() | set() | frozenset():
            return [plain(one) for one in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no plain form")
