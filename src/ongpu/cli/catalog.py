"""The facts that plans rest on: ``ongpu catalog`` and ``ongpu catalog update``."""

from __future__ import annotations

import collections
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.cli.plan import Offline
from ongpu.cli.rows import Rows, known_catalog, read_rows, rows_file, write_whole
from ongpu.errors import OngpuError, UsageError, WorkError

if TYPE_CHECKING:
    from ongpu.domain.build import TorchBuild

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def catalog(context: typer.Context, rows: Rows = None, offline: Offline = False, as_json: AsJson = False) -> None:
    """Show how old the facts are that plans rest on, what is in them, and which releases they do not know."""
    if context.invoked_subcommand is None:
        _shown(rows=rows, offline=offline, as_json=as_json)
    elif rows is not None or offline or as_json:
        raise typer.BadParameter(f"options of {context.invoked_subcommand} come after its name", ctx=context)


@command("catalog")
def _shown(*, rows: Path | None, offline: bool, as_json: bool) -> int:
    from ongpu.catalog.fresh import freshness
    from ongpu.catalog.update import own_rows
    from ongpu.cli.newer import Newer
    from ongpu.report.plan_document import CatalogDocument

    newer = Newer(offline=offline)
    facts = known_catalog(rows)
    file = rows or rows_file()
    text = read_rows(file) if file is not None else None
    newer.wait()
    fresh = freshness(facts.builds, today=_today(), on_index=newer.releases, not_asked=newer.not_asked)
    counted = ("builds", "gpus", "generations", "branches", "drivers", "companions", "glibcs", "retired")
    document = CatalogDocument(
        catalog=fresh,
        newest=facts.newest,
        tables={name: len(getattr(facts, name)) for name in counted},
        evidence=dict(collections.Counter(one.evidence for one in facts.builds)),
        rows_file=str(file) if file is not None and text is not None else None,
        own_rows=own_rows(text, file=str(file)) if text is not None else (),
    )
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("catalog", document))
    else:
        from ongpu.report import catalog_terminal

        show(catalog_terminal.catalog(document))
    return 0


@app.command("update")
@command("catalog update")
def update(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="A release on PyPI (2.16.0), a torch wheel, or the URL of one. [default: every release not known]",
            show_default=False,
        ),
    ] = None,
    rows: Rows = None,
    as_json: AsJson = False,
) -> int:
    """Read what a new torch was built for from its wheels, and keep it beside the shipped catalog.

    Of a wheel on a server only the parts that say it are fetched, some megabytes of hundreds.
    """
    from ongpu.catalog.update import merged, row_text, with_rows
    from ongpu.machine.web import RealWeb
    from ongpu.plan.refresh import read_target
    from ongpu.report.plan_document import CatalogUpdateDocument

    file = rows or rows_file()
    if file is None:
        raise UsageError("There is no home folder to keep rows in.", next_step="Name a file with --rows.")
    if file.is_dir():
        raise UsageError(f"--rows {str(file)!r} is a folder.", next_step="Name a file, such as builds.csv.")
    before = read_rows(file)
    facts = known_catalog(rows if before is not None else None)
    web = RealWeb()
    found: list[TorchBuild] = []
    problems: list[str] = []
    first: OngpuError | None = None
    for one in targets or _unknown(facts.builds):
        if not as_json:
            print(f"reading {one} ...", file=sys.stderr)
        try:
            found += read_target(one, web=web, today=_today())
        except OngpuError as error:
            first = first or error
            problems.append(str(error))
    if first is not None and not found:
        raise first
    kept = merged(before, found, file=str(file))
    if found:
        text = row_text(kept)
        with_rows(facts, text, file=str(file))  # a row that contradicts the rest is refused before it is kept
        write_whole(file, text)
    document = CatalogUpdateDocument(
        rows_file=str(file), read=tuple(found), problems=tuple(problems), rows_in_file=len(kept)
    )
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("catalog-update", document))
    else:
        from ongpu.report import catalog_terminal

        show(catalog_terminal.update(document))
    return WorkError.exit_status if problems else 0


def _unknown(builds: tuple[TorchBuild, ...]) -> tuple[str, ...]:
    """Every release that PyPI has and the catalog does not."""
    from ongpu.catalog.fresh import unknown_releases
    from ongpu.errors import DoorError
    from ongpu.machine.web import RealWeb
    from ongpu.plan.refresh import releases_on_pypi

    try:
        return unknown_releases(builds, releases_on_pypi(RealWeb(), timeout_s=30.0))
    except DoorError as error:
        raise WorkError(
            f"PyPI could not be asked which releases it has: {error.reason}.",
            next_step="Check the network, or name a torch wheel that you have: `ongpu catalog update FILE.whl`.",
        ) from error


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
