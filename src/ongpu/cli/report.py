"""The command that draws a bundle: report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ongpu.cli.evidence import Bundle, Require, Trust, trusted
from ongpu.cli.frame import AsJson, command
from ongpu.errors import UsageError, WorkError


@command("report")
def report(
    bundle: Bundle,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; by default the bundle's name and .html, here.")
    ] = None,
    require: Require = None,
    trust: Trust = None,
    as_json: AsJson = False,
) -> int:
    """Draw a bundle as one self-contained HTML page, after checking it; a refused one gives a page that says so.

    Exit status: that of `ongpu evidence check`. The page loads nothing and no text of the bundle can act in it.
    """
    from ongpu.report.document import PageDocument
    from ongpu.report.html import bundle_page
    from ongpu.report.json_text import to_json

    page = output or Path(f"{bundle.resolve().name.removesuffix('.zip') or 'bundle'}.html")
    _check_free(page, bundle)
    text, checked = bundle_page(bundle, require=require, trust=trusted(trust))
    data = text.encode()
    try:
        with page.open("xb") as stream:
            stream.write(data)
    except OSError as error:
        raise WorkError(
            f"{page} could not be written: {error.strerror}.", next_step="Name another file with --output."
        ) from error
    if as_json:
        sys.stdout.write(to_json("report", PageDocument(page=str(page), size_bytes=len(data), check=checked)))
    else:
        print(f"{checked.answer.value}: {page} ({len(data) / 1000:.0f} kB)")
        if checked.problems:
            print("Its obligations that are not met are on the page; they are printed by: ongpu evidence check")
    return checked.exit_status


def _check_free(page: Path, bundle: Path) -> None:
    if page.exists() or page.is_symlink():
        raise UsageError(f"{page} exists; it is not written over.", next_step="Name another file with --output.")
    if not page.parent.is_dir():
        raise UsageError(f"{page.parent} is no folder.", next_step="Name a file in a folder that exists.")
    if bundle.is_dir() and page.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(
            f"{page} is in the bundle, which is sealed: one more file would make it refused.",
            next_step="Name a file elsewhere with --output.",
        )
