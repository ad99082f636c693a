"""What ``plan`` shows: the answer, every axis, what goes with it, what it costs, how old the facts are."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ongpu.domain.build import Companion
from ongpu.report.terminal import grid, styled

if TYPE_CHECKING:
    from ongpu.plan import CommandReport
    from ongpu.report.plan_document import PlanDocument

# A screen shows the beginning of a source; the JSON document carries it whole.
_SOURCE_WIDTH = 72


def advice(value: CommandReport) -> RenderableType:
    """What ``plan --check`` shows: whether the command works here, why, and what to type instead."""
    word, style = {
        True: ("works", "bold green"),
        False: ("does not work", "bold red"),
        None: ("unknown", "bold yellow"),
    }[value.works]
    head = Text.assemble(Text(word, style=style), f"  {value.command}")
    if value.cause is not None:
        head.append(f"  cause: {value.cause.value}", style="red")
    parts: list[RenderableType] = [head]
    if value.build:
        parts.append(Text(f"  it would install torch {value.build}"))
    parts += [Text(f"  {reason}") for reason in value.reasons]
    parts.append(Text(f"Next: {value.next_step}"))
    return Group(*parts)


def decision(value: PlanDocument) -> RenderableType:
    """What ``plan`` shows."""
    head = Text.assemble(styled(value.decision), "  ")
    if value.torch:
        head.append(f"torch {value.torch}+{value.cuda_tag}", style="bold")
        head.append(f"  from {value.index_url or 'PyPI'}")
    if value.cause:
        head.append(f"  cause: {value.cause.value}", style="red")
    parts: list[RenderableType] = [head]
    if value.command:
        parts.append(Text("  " + shlex.join(value.command), style="bold"))
    parts.append(grid((fit.device, str(fit.compute_capability), Text(fit.fit.value)) for fit in value.fit))
    parts.append(
        grid(
            (axis.axis, styled(axis.verdict), Text.assemble(axis.reason, Text(f"  [{_short(axis.source)}]", "dim")))
            for axis in value.axes
        )
    )
    parts += [_companion(one) for one in value.companions]
    parts += [Text(f"  lost: {one}", style="yellow") for one in value.lost]
    parts += [Text(f"  assumed: {one}", style="yellow") for one in value.assumptions]
    for part in value.split:
        typed = f"CUDA_VISIBLE_DEVICES={part.mask}  with {shlex.join(part.command)}"
        parts.append(Text(f"  apart: {part.label}: {typed}"))
    parts += [Text(f"  not taken: {one.label}: {one.reason}", style="dim") for one in value.alternatives]
    if value.recipe and value.recipe_file is None:
        parts += [Text("  the recipe (--recipe FILE writes it; nothing of it was run):", style="bold")]
        parts += [Text(f"  | {line}") for line in value.recipe]
    if value.recipe_file is not None:
        parts.append(Text(f"  recipe: written to {value.recipe_file}, not run"))
    if value.lines is not None:
        parts.append(Text("  to write down:", style="bold"))
        parts += [Text(line) for line in value.lines.splitlines()]  # as they are to be copied
    if value.lock is not None:
        parts.append(Text(f"  lock: {value.lock.packages} packages with their hashes, in {value.lock.path}"))
    known = value.catalog
    parts.append(Text(f"  {known.text}", style="yellow" if known.stale or not known.asked else "dim"))
    parts.append(Text(f"Next: {value.next_step}"))
    return Group(*parts)


def _companion(one: Companion) -> Text:
    if one.version is None:
        return Text(f"  {one.name}: none: {one.reason}", style="yellow")
    return Text(f"  {one.name}: {one.version}: {one.reason}", style="yellow" if one.fits is None else "")


def _short(source: str) -> str:
    return source if len(source) <= _SOURCE_WIDTH else f"{source[:_SOURCE_WIDTH].rsplit(' ', 1)[0]} ..."
