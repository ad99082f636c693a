"""Records: from the bytes of a JSON Lines file to checked values; a bad line is named by number and reason.

A line of a data set::

    {"trace_version":"1.0","prompt":"...","final_answer":"...","steps":[{"i":0,"type":"...","content":"..."}],"meta":{...}}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ongpu.errors import UsageError
from ongpu.training import dataset as built_in

TRACE_VERSION: Final = "1.0"
_KEYS: Final = ("trace_version", "prompt", "final_answer", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One reasoning trace: the text the model is given, and the text it is to write."""

    prompt: str
    steps: tuple[str, ...]
    answer: str

    @property
    def question(self) -> str:
        """The prompt part of the text."""
        return f"Question: {self.prompt}\nReasoning:\n"

    @property
    def completion(self) -> str:
        """Steps and answer."""
        lines = [f"{number}. {step}\n" for number, step in enumerate(self.steps, start=1)]
        return "".join(lines) + f"Answer: {self.answer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no record: its number, counted from 1, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a data set held. ``sha256`` is of the bytes as they were read."""

    name: str
    sha256: str
    records: tuple[Record, ...]
    skipped: tuple[BadLine, ...] = ()


class BadRecordError(ValueError):
    """One line is not a record; the text is the reason. Never leaves this module."""


def load(name: str, *, skip_bad: bool) -> Records:
    """Read the built-in data set or the file called ``name``.

    :raises UsageError: no such file, nothing in it, or a bad line where ``skip_bad`` is false.
    """
    return parse(read(name), name=name, skip_bad=skip_bad)


def read(name: str) -> bytes:
    """The bytes of the built-in data set or of the file called ``name``; :class:`UsageError` where there is none."""
    if name == built_in.NAME:
        return built_in.jsonl()
    path = Path(name)
    known = f"Give --dataset {built_in.NAME} or the path of a JSON Lines file."
    try:
        if path.is_dir():
            raise UsageError(f"The data set {name} is a folder, not a file.", next_step=known)
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"There is no data set {name}.", next_step=known) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"The data set {name} cannot be read: {error}.", next_step="Check its permissions.") from None


def digest(content: bytes) -> str:
    """The SHA-256 by which data is known, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def parse(content: bytes, *, name: str, skip_bad: bool) -> Records:
    """The records in ``content``; empty lines count as lines and are no records."""
    records: list[Record] = []
    bad: list[BadLine] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_line(line))
        except BadRecordError as error:
            if not skip_bad:
                raise UsageError(
                    f"{name}, line {number}: {error}.",
                    next_step="Correct the line, or leave such lines out with --on-bad-record skip.",
                ) from None
            bad.append(BadLine(number=number, reason=str(error)))
    if not records:
        why = f": all {len(bad)} lines are bad, first line {bad[0].number}: {bad[0].reason}" if bad else ": it is empty"
        raise UsageError(f"The data set {name} has no record{why}.", next_step="Give a file with one record a line.")
    return Records(name=name, sha256=digest(content), records=tuple(records), skipped=tuple(bad))


def parse_line(line: bytes) -> Record:
    """One line as a record; :class:`BadRecordError` says why it is none."""
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadRecordError(f"not JSON at column {error.colno}: {error.msg}") from None
    except BadRecordError:
        raise
    except ValueError:
        raise BadRecordError("a number of too many digits") from None
    except RecursionError:
        raise BadRecordError("nested too deeply") from None
    if not isinstance(value, dict):
        raise BadRecordError("not a JSON object")
    missing = [key for key in _KEYS if key not in value]
    if missing:
        raise BadRecordError(f"the key '{missing[0]}' is missing")
    if value["trace_version"] != TRACE_VERSION:
        raise BadRecordError(f"trace_version is {value['trace_version']!r}, not '{TRACE_VERSION}'")
    if not isinstance(value.get("meta", {}), dict):
        raise BadRecordError("meta is not an object")
    steps = value["steps"]
    if not isinstance(steps, list) or not steps:
        raise BadRecordError("steps is not a list with at least one step")
    return Record(
        prompt=_text(value, "prompt"),
        answer=_text(value, "final_answer"),
        steps=tuple(_step(step, place) for place, step in enumerate(steps)),
    )


def _step(step: object, place: int) -> str:
    if not isinstance(step, dict):
        raise BadRecordError(f"step {place} is not an object")
    if step.get("i") != place or isinstance(step.get("i"), bool):
        raise BadRecordError(f"step {place} has i {step.get('i')!r}")
    if not isinstance(step.get("type"), str):
        raise BadRecordError(f"step {place} has no type")
    try:
        return _text(step, "content")
    except BadRecordError as error:
        raise BadRecordError(f"step {place}: {error}") from None


def _text(value: dict[str, object], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.strip():
        raise BadRecordError(f"{key} is not a text that is not empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecordError(f"{key} has half of a surrogate pair") from None
    return text


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise BadRecordError(f"the key '{twice}' is given twice")
    return value
