"""How often a reading is written down: closely at first, then ever less, so that a week's journal has a bounded size.

Readings are *taken* all the time, once a second. After the first ten minutes one that says nothing new is written when
a 240th of the time so far has passed since the last, and at least ten seconds; what was taken between is in that line
as its number and its least and greatest values. One that says something new, and those of a burst, are written at once
as long as an allowance in bytes lasts, which grows slowly again. The energy counter adds up by itself.

Seven days on eight GPUs: some 7 MB of the first kind, at most 16 MB of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The rate that a run declares in its journal, beside the baseline.

    :param close_s: so long after the start every reading is written.
    :param kept_s: afterwards a quiet reading is written once in this long, or
    :param grows: in the time so far divided by this, whichever is longer.
    :param news_bytes: memory that moves by more than this is something new.
    :param allowance_bytes: what may be written beyond that at any moment.
    :param refill_bytes_per_s: how fast that grows back.
    """

    close_s: float = 600.0
    kept_s: float = 10.0
    grows: float = 240.0
    news_bytes: int = 16 << 20
    allowance_bytes: int = 6 << 20
    refill_bytes_per_s: float = 16.0

    def kept_after_s(self, elapsed_s: float) -> float:
        """Seconds between two quiet readings, so long after the start."""
        return max(self.kept_s, elapsed_s / self.grows)


# Number, chain value, times and role of a journal's line.
_FRAME_BYTES = 200


class Allowance:
    """Bytes that may be written at once, by a :class:`Pace`."""

    def __init__(self, pace: Pace, *, now: float) -> None:
        self._pace = pace
        self._left = float(pace.allowance_bytes)
        self._at = now

    def lasts(self, now: float) -> bool:
        """Whether something may be written."""
        self._left = min(self._pace.allowance_bytes, self._left + (now - self._at) * self._pace.refill_bytes_per_s)
        self._at = now
        return self._left > 0

    def spend(self, size_bytes: int) -> None:
        """It was: so many bytes, and what the journal puts around them."""
        self._left -= size_bytes + _FRAME_BYTES


_SUMMED = ("memory_used_bytes", "utilization_percent", "power_mw")


class Between:
    """The readings taken since the last one that was written: how many, and their least and greatest values."""

    def __init__(self) -> None:
        self.readings = 0
        self._seen: dict[str, dict[str, tuple[int, int]]] = {}

    def take(self, devices: list[dict[str, object]]) -> None:
        """One reading of every device."""
        self.readings += 1
        for device in devices:
            seen = self._seen.setdefault(str(device["uuid"]), {})
            for name in _SUMMED:
                value = device.get(name)
                if isinstance(value, int):
                    low, high = seen.get(name, (value, value))
                    seen[name] = (min(low, value), max(high, value))

    def tell(self, devices: list[dict[str, object]]) -> list[dict[str, object]]:
        """The reading that is written, with what lay between where there was more than itself; begins anew."""
        seen, readings = self._seen, self.readings
        self._seen, self.readings = {}, 0
        if readings <= 1:
            return devices
        return [
            {**device, "since": {name: list(ends) for name, ends in seen.get(str(device["uuid"]), {}).items()}}
            for device in devices
        ]


def gist(device: Mapping[str, object]) -> tuple[int, dict[int, int]]:
    """What makes a reading new: the memory in use, and each process with its own."""
    used, processes = device.get("memory_used_bytes"), device.get("processes")
    listed = processes if isinstance(processes, list) else []
    return used if isinstance(used, int) else -1, {one["pid"]: one["used_bytes"] or 0 for one in listed}


def is_news(
    before: Mapping[str, tuple[int, dict[int, int]]], now: Mapping[str, tuple[int, dict[int, int]]], *, news_bytes: int
) -> bool:
    """Whether a process came or went, or memory moved by more than ``news_bytes``."""
    for uuid, (used, processes) in now.items():
        had, listed = before.get(uuid, (-1, {}))
        if abs(used - had) > news_bytes or processes.keys() != listed.keys():
            return True
        if any(abs(size - listed[pid]) > news_bytes for pid, size in processes.items()):
            return True
    return False
