"""The folder ``blocked/`` of a bundle that was blocked: what a stranger needs to help, made from the observations.

``cause.json``: where it stopped, the cause, the lines, what was not tried and why, and which files of the bundle are
the logs. ``environment.json``: the machine, the target environment and torch, as far as they were read. The issue-ready
text beside them, ``report.md``, is a page (floor 6 writes it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ongpu.domain.witness import Observation

BLOCKED_REPORT: Final = "blocked/report.md"
_CAUSE: Final = "blocked/cause.json"
_ENVIRONMENT: Final = "blocked/environment.json"
_SCHEMA: Final = "ongpu/blocked/1"
# What the phases read of the machine, by the kind of the record.
_READ: Final = ("machine", "environment", "torch")
_LOG_ENDINGS: Final = ("_log.txt", "_check.txt")


def is_blocked(observations: Iterable[Observation]) -> bool:
    """Whether a block was recorded."""
    return any(one.kind == "blocked" for one in observations)


def blocked_documents(observations: Sequence[Observation], files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The names and texts of the folder's JSON documents. ``files`` are those of the bundle, by name."""
    block = next(one.data for one in reversed(observations) if one.kind == "blocked")
    logs = [name for name in files if name.endswith(_LOG_ENDINGS)]
    yield _CAUSE, _json({"schema": _SCHEMA, **_plain(block), "logs": logs})
    read: dict[str, object] = {kind: _plain(one.data) for kind in _READ for one in observations if one.kind == kind}
    unread = [kind for kind in _READ if kind not in read]
    yield _ENVIRONMENT, _json({"schema": _SCHEMA, **read, "not_read": unread})


def _plain(data: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if name != "run_id"}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
