"""Which machine a rehearsal is for: a described one of the catalog, or one that ``ongpu probe --json`` wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ongpu import catalog
from ongpu.domain.machine import Machine
from ongpu.report.document import from_json


def described(name: str) -> Machine:
    """The machine of that name. Raises :class:`~ongpu.errors.UsageError` naming the ones there are."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return replace(from_json(path.read_bytes(), Machine, what=name), simulated=True)
    return catalog.described_machine(name)
