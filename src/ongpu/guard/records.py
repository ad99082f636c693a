"""The records of the hook, as they come from files that the watched program could have written itself.

So nothing is believed here: a line that is no small JSON object becomes ``{"record": "malformed"}`` in its place, and
counts. What a record *means* is for the judge.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

MAX_LINE = 1 << 20
MAX_FILES = 4096
MAX_BYTES_PER_POLL = 8 << 20
MAX_DEPTH = 8
MAX_INTEGER = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRecord:
    """One record and the file it came from (one process writes one file)."""

    source: str
    fields: dict[str, object]


class HookTail:
    """Follows every file in the hook's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}
        self._rests: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}
        self.pids: dict[str, int | None] = {}
        self.refused_files = 0

    def poll(self) -> list[HookRecord]:
        """The records written since the last poll, in order by file."""
        found: list[HookRecord] = []
        for path in sorted(self._folder.glob("*.jsonl")):
            if path.name not in self._offsets and len(self._offsets) >= MAX_FILES:
                self.refused_files += 1
                continue
            found.extend(self._read(path))
        return found

    def _read(self, path: Path) -> list[HookRecord]:
        offset = self._offsets.setdefault(path.name, 0)
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size <= offset:
                return []
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(MAX_BYTES_PER_POLL)
        except OSError:
            return []
        self._offsets[path.name] = offset + len(data)
        *lines, rest = (self._rests.pop(path.name, b"") + data).split(b"\n")
        if len(rest) > MAX_LINE:
            lines.append(rest)
            rest = b""
        self._rests[path.name] = rest
        return [self._record(path.name, line) for line in lines]

    def _record(self, source: str, line: bytes) -> HookRecord:
        fields = parse(line)
        self.counts[source] = self.counts.get(source, 0) + 1
        pid = fields.get("pid")
        self.pids.setdefault(source, pid if isinstance(pid, int) else None)
        return HookRecord(source=source, fields=fields)


def parse(line: bytes) -> dict[str, object]:
    """One line as a mapping with a text ``record``; ``{"record": "malformed", "reason": ...}`` for anything else."""
    if len(line) > MAX_LINE:
        return _malformed("longer than 1 MiB")
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError):
        return _malformed("not JSON")
    if not isinstance(fields, dict) or not isinstance(fields.get("record"), str):
        return _malformed("not a record")
    if not _plain(fields, MAX_DEPTH):
        return _malformed("values out of range")
    return fields


def _malformed(reason: str) -> dict[str, object]:
    return {"record": "malformed", "reason": reason}


def _plain(value: object, depth: int) -> bool:
    match value:
        case None | bool():
            return True
        case str():
            return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)
        case int():
            return abs(value) <= MAX_INTEGER
        case float():
            return math.isfinite(value)
        case list():
            return depth > 0 and all(_plain(one, depth - 1) for one in value)
        case dict():
            return depth > 0 and all(_plain(key, 0) and _plain(one, depth - 1) for key, one in value.items())
        case _:
            return False
