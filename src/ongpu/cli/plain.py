"""Words and paths of the command line without pydantic.

Typer 0.29 checks every value with pydantic, and importing that takes 60 ms: half of the start of each command, to
find that a word is a word. Where a parameter takes words or paths, its check is put here in place of Typer's; what is
of another kind, and a path that may not be read, still goes Typer's way. Another Typer may keep its checks elsewhere:
then nothing is put in place, and the start is slower (a test sees it).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import typer

_KEPT_IN: Final = "_runtime_param"


def without_pydantic(command: Any, words: Sequence[str], *, above: Any = None) -> None:
    """Put our check in place of Typer's on every parameter of a command, and of the commands that ``words`` name."""
    context = typer.Context(command, parent=above, **command.context_settings)
    for parameter in command.get_params(context):
        if getattr(parameter, _KEPT_IN, parameter) is None and hasattr(parameter, "get_runtime_param"):
            setattr(parameter, _KEPT_IN, _Check(parameter))
    below = getattr(command, "commands", {}).get(words[0]) if words else None
    if below is not None:
        without_pydantic(below, words[1:], above=context)


class _Check:
    """One parameter's check, shaped as Typer's."""

    def __init__(self, parameter: Any) -> None:
        self._kind = parameter.type_descriptor.annotation

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command takes it; Typer's own error where it cannot be."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self._kind is str and isinstance(value, str):
            return value
        if self._kind == list[str] and not isinstance(value, str) and all(isinstance(one, str) for one in value):
            return list(value)
        if self._kind is Path and isinstance(value, str | Path) and _may_be_read(value):
            return Path(value)
        setattr(param, _KEPT_IN, None)
        try:
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)
        finally:
            setattr(param, _KEPT_IN, self)


def _may_be_read(path: str | Path) -> bool:
    return not os.path.lexists(path) or os.access(path, os.R_OK)
