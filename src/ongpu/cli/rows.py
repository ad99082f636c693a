"""The catalog as commands use it: the shipped tables, and the builds that the user had read from wheels."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.errors import UsageError, WorkError

if TYPE_CHECKING:
    from ongpu.catalog import Catalog

Rows = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Builds read by `ongpu catalog update`. [default: ongpu's user data folder]"),
]


def rows_file() -> Path | None:
    """Where a user's own rows lie: beside other programs' data, as each system has it; ``None`` without a home."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "ongpu" / "builds.csv" if base else None
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "ongpu" / "builds.csv"
    try:
        return Path.home() / ".local" / "share" / "ongpu" / "builds.csv"
    except RuntimeError:  # no home
        return None


def known_catalog(rows: Path | None = None) -> Catalog:
    """The shipped catalog with the user's rows in it, where there are any.

    :param rows: the file that was named; ``None`` takes the default one, which need not exist.
    :raises UsageError: the named file cannot be read.
    :raises CatalogError: naming file and line of a row that is broken.
    """
    from ongpu import catalog

    shipped = catalog.load()
    file = rows if rows is not None else rows_file()
    text = read_rows(file) if file is not None else None
    if text is None:
        if rows is not None:
            raise UsageError(f"There is no file {str(rows)!r}.", next_step="Let `ongpu catalog update` write it.")
        return shipped
    from ongpu.catalog.update import with_rows

    return with_rows(shipped, text, file=str(file))


def read_rows(file: Path) -> str | None:
    """The text of a file of rows; ``None`` where there is no such file."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"{str(file)!r} cannot be read: {reason}.", next_step="Mend it, move it away, or name another with --rows."
        ) from error


def write_whole(file: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all.

    :raises WorkError: it cannot be written; what was there before still is.
    """
    name: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(name).chmod(mode)
        Path(name).replace(file)
    except OSError as error:
        if name is not None:
            with contextlib.suppress(OSError):
                Path(name).unlink()
        raise WorkError(
            f"{str(file)!r} could not be written: {error.strerror or error}.",
            next_step="Name a file in a folder that you may write to and that has room.",
        ) from error
