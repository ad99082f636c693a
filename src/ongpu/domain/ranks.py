"""One row for each process that trained: the table of a run with several ranks or GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ongpu.domain.readings import read
from ongpu.domain.testimony import accused, trained
from ongpu.domain.witness import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRow:
    """One process by its own word (W1). ``against`` is what it says against GPU training, ``None`` for nothing."""

    label: str
    pid: int | None
    rank: int | None
    world_size: int | None
    devices: tuple[str, ...]
    steps: int | None
    most_reserved_bytes: int | None
    against: str | None


def ranks(observations: Sequence[Observation], *, role: str = "train") -> tuple[RankRow, ...]:
    """The processes of ``role`` that stepped, by rank and pid. Raises ``JudgeError`` as the judge does."""
    readings = read(observations).roles[role]
    pairs = trained(readings)
    rows = []
    for source in readings.hooks.values():
        if source.stepping:
            mine = [pair for pair in pairs if pair.source is source]
            found = accused(source)
            rows.append(
                RankRow(
                    label=source.label,
                    pid=source.pid,
                    rank=source.rank,
                    world_size=source.world_size,
                    devices=tuple(pair.uuid for pair in mine),
                    steps=source.end.steps if source.end else None,
                    most_reserved_bytes=max((held.peak for pair in mine for held in pair.held), default=None),
                    against=found[1] if found else None,
                )
            )
    return tuple(sorted(rows, key=lambda row: (row.rank is None, row.rank or 0, row.pid or 0)))
