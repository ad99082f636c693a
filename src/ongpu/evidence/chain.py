"""Reading a journal back: strict lines, one unbroken chain. Bytes in, observations out.

The line format stands in :mod:`ongpu.domain.witness`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ongpu.domain.witness import Observation
from ongpu.evidence import strict_json

GENESIS: Final = "0" * 64
MAX_LINE_BYTES: Final = 1 << 20
MAX_RECORDS: Final = 2_000_000
# Kinds that come many times a second; all others are events, which carry the run id.
STREAMED: Final = frozenset({"nvml.sample", "nvml.error", "energy", "tree", "hook"})
_KEYS: Final = frozenset({"seq", "prev", "t_wall", "t_mono", "kind", "data"})


class JournalError(ValueError):
    """The journal is not what one supervisor wrote in one run.

    :param line: the line the trouble is in, counted from 0; it equals the ``seq`` that should stand there.
    :param chained: whether it is the chain or the counting that broke, rather than the text of a line.
    """

    def __init__(self, message: str, *, line: int, chained: bool) -> None:
        super().__init__(f"journal line {line}: {message}")
        self.line = line
        self.chained = chained


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReading:
    """A journal as far as it is good.

    ``head`` is the chain value of the last good line (64 zeros for none), ``good_bytes`` where that line ends
    and ``torn_bytes`` what stands behind it without a newline: the line a crash cut short.
    """

    observations: tuple[Observation, ...]
    head: str
    good_bytes: int
    torn_bytes: int


def link(prev: str, line: bytes) -> str:
    """The chain value of ``line`` (no newline) that follows a line of chain value ``prev``."""
    return hashlib.sha256(prev.encode("ascii") + line).hexdigest()


def scan_journal(data: bytes) -> JournalReading:
    """Read the journal; a last line without its newline is set aside as torn.

    Raises :class:`JournalError` for everything else that is not right.
    """
    body, newline, torn = data.rpartition(b"\n")
    # Lines are split at \n bytes alone: str.splitlines would also split at U+2028 and make records of text.
    lines = body.split(b"\n") if newline else []
    if len(lines) > MAX_RECORDS:
        raise JournalError(f"more than {MAX_RECORDS} records", line=MAX_RECORDS, chained=False)
    prev = GENESIS
    observations = []
    for number, line in enumerate(lines):
        observations.append(_observation(line, number=number, prev=prev))
        prev = link(prev, line)
    good = len(data) - len(torn)
    return JournalReading(observations=tuple(observations), head=prev, good_bytes=good, torn_bytes=len(torn))


def read_journal(data: bytes) -> tuple[Observation, ...]:
    """Read a complete journal. Raises :class:`JournalError`, also for a torn last line."""
    reading = scan_journal(data)
    if reading.torn_bytes:
        raise JournalError("cut short: the run was never sealed", line=len(reading.observations), chained=False)
    return reading.observations


def _observation(line: bytes, *, number: int, prev: str) -> Observation:
    if len(line) > MAX_LINE_BYTES:
        raise JournalError(f"longer than {MAX_LINE_BYTES} bytes", line=number, chained=False)
    try:
        record = strict_json.parse_object(line)
    except strict_json.StrictJsonError as error:
        raise JournalError(str(error), line=number, chained=False) from None
    if record.keys() != _KEYS:
        raise JournalError(f"its keys are not {', '.join(sorted(_KEYS))}", line=number, chained=False)
    seq, t_wall, t_mono, kind, data = (record[key] for key in ("seq", "t_wall", "t_mono", "kind", "data"))
    if (
        not isinstance(seq, int)
        or isinstance(seq, bool)
        or not isinstance(t_wall, float)
        or not isinstance(t_mono, float)
        or not isinstance(kind, str)
        or not isinstance(data, dict)
    ):
        raise JournalError("a value has the wrong type", line=number, chained=False)
    if seq != number:
        raise JournalError(f"seq is {seq}", line=number, chained=True)
    if record["prev"] != prev:
        raise JournalError("prev is not the chain value of the line before", line=number, chained=True)
    return Observation(seq=seq, t_wall=t_wall, t_mono=t_mono, kind=kind, data=data)
