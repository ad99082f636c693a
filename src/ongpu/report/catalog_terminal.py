"""What ``catalog`` and ``catalog update`` show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ongpu.report.terminal import grid

if TYPE_CHECKING:
    from ongpu.domain.build import TorchBuild
    from ongpu.report.plan_document import CatalogDocument, CatalogUpdateDocument


def catalog(value: CatalogDocument) -> RenderableType:
    """The age first, then what there is."""
    fresh = value.catalog
    parts: list[RenderableType] = [Text(fresh.text, style="yellow" if fresh.stale or not fresh.asked else "bold")]
    evidence = ", ".join(f"{count} {name}" for name, count in sorted(value.evidence.items()))
    rows = [("newest torch", Text(value.newest)), ("code targets known from", Text(evidence))]
    rows += [(name, Text(f"{count} rows")) for name, count in value.tables.items()]
    parts.append(grid(rows))
    if value.rows_file is not None:
        parts.append(Text(f"  with {len(value.own_rows)} builds of your own from {value.rows_file}:"))
        parts.append(_builds(value.own_rows))
    return Group(*parts)


def update(value: CatalogUpdateDocument) -> RenderableType:
    """Each build that was read, what could not be, and where the rows are."""
    parts: list[RenderableType] = [_builds(value.read)] if value.read else []
    parts += [Text(f"  not read: {problem}", style="red") for problem in value.problems]
    if value.read:
        parts.append(Text(f"{value.rows_file} has {value.rows_in_file} rows now, and every plan counts with them."))
    elif not value.problems:
        parts.append(Text("Nothing to read: the index has no release that the catalog does not know."))
    return Group(*parts)


def _builds(builds: tuple[TorchBuild, ...]) -> RenderableType:
    return grid(
        (
            one.label,
            f"{one.os} {one.arch}",
            Text(" ".join(str(target) for target in one.targets) or "no CUDA code"),
            Text(f"Python {' '.join(one.pythons)}"),
            Text(one.source, style="dim"),
        )
        for one in builds
    )
