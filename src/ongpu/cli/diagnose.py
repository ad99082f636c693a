"""The command ``diagnose``: a log or a bundle to its cause, as text, as a document, or as the text of an issue."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.errors import UsageError

if TYPE_CHECKING:
    from ongpu.explain import BundleCase, Explanation

_CHUNK_BYTES = 1 << 20


@command("diagnose")
def diagnose(
    target: Annotated[
        str, typer.Argument(metavar="FILE", help="A log file, a bundle (folder or zip), or - for standard input.")
    ],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the text of an issue: Markdown, secrets removed.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Name the cause of a failure from a log alone, or from a bundle, on any machine.

    Exit status: 0 a cause was named; 3 undetermined: the log cannot tell.
    """
    if markdown and as_json:
        raise UsageError("--markdown and --json are two forms of one answer.", next_step="Leave one of them out.")
    from ongpu.domain.verdict import Cause
    from ongpu.report.diagnosis import diagnose_document, diagnosis_text

    case: BundleCase | None = None
    if target != "-" and (Path(target).is_dir() or (target.endswith(".zip") and Path(target).is_file())):
        from ongpu.explain import read_case

        case = read_case(Path(target))
        document = diagnose_document(case.told, source=case.log, case=case)
    else:
        document = diagnose_document(_read(target), source=target if target == "-" else Path(target).name)
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("diagnose", document))
    elif markdown:
        from ongpu import __version__
        from ongpu.report.issue_text import issue_text

        sys.stdout.write(issue_text(document, redact=_redactor(), version=__version__, case=case))
    else:
        show(diagnosis_text(document))
    return 3 if document.cause is Cause.UNDETERMINED else 0


def _read(target: str) -> Explanation:
    from ongpu.explain import explain

    if target == "-":
        return explain(iter(lambda: sys.stdin.buffer.read(_CHUNK_BYTES), b""))
    try:
        with Path(target).open("rb") as stream:
            return explain(iter(lambda: stream.read(_CHUNK_BYTES), b""))
    except OSError as error:
        raise UsageError(
            f"{target} cannot be read: {error.strerror}.",
            next_step="Name a log file, a bundle (folder or zip), or - for standard input.",
        ) from error


def _redactor() -> Callable[[str], str]:
    """What this machine knows by value: its secrets, its names. A bundle is often posted from where it was made."""
    import platform

    from ongpu.evidence.redact import Identity, Redactor

    variables = dict(os.environ)
    identity = Identity(
        hosts=(platform.node(),),
        user=variables.get("USER") or variables.get("USERNAME"),
        home=variables.get("HOME") or variables.get("USERPROFILE"),
        cwd=str(Path.cwd()),
    )
    return Redactor(variables, identity=identity, is_path=os.path.exists)
