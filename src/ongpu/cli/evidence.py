"""Commands on evidence: check, show, recover."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ongpu.cli.frame import AsJson, command

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder or a zip file.")]
Require = Annotated[str | None, typer.Option(metavar="LEVEL", help="The level it must reach: A0 ... A4.")]
Nonce = Annotated[str | None, typer.Option(help="The challenge that this bundle must answer.")]

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check a bundle: recompute its verdict and trust nothing in it."
)


@app.command("check")
@command("evidence")
def check(bundle: Bundle, require: Require = None, nonce: Nonce = None, as_json: AsJson = False) -> int:
    """Recompute the verdict from the raw observations and compare; refuse a bundle that was changed.

    Exit status: 0 intact, and the verdict is what its observations give; 1 refused; 3 simulated, or below --require.
    """
    from ongpu.evidence.check import check as examine
    from ongpu.evidence.show import visible
    from ongpu.report.document import to_json

    report = examine(bundle, require=require, nonce=nonce)
    if as_json:
        sys.stdout.write(to_json("evidence", report))
    else:
        print(f"{report.answer.value}: {visible(str(bundle))}")
        if report.verdict is not None and not report.problems:
            print(f"verdict: {report.verdict.outcome.value}: {visible(report.verdict.reason)}")
        for problem in report.problems:
            print(f"  problem {problem.obligation}: {visible(problem.text)}")
        for note in (*report.notes, *(f"not shown by it: {words}" for words in report.not_proven)):
            print(f"  {visible(note)}")
    return report.exit_status


@app.command("show")
@command("evidence")
def show(bundle: Bundle) -> int:
    """The claims and witnesses of a bundle, from the recomputed verdict."""
    from ongpu.evidence.check import check as examine
    from ongpu.evidence.show import render

    report = examine(bundle)
    sys.stdout.write(render(report))
    return report.exit_status


@app.command("recover")
@command("evidence")
def recover(bundle: Bundle) -> int:
    """Seal what a crashed run left behind, as interrupted: it can never be proven."""
    import os

    from ongpu.evidence.journal import SystemClock
    from ongpu.evidence.redact import Redactor
    from ongpu.evidence.seal import recover as reseal
    from ongpu.machine.clock import RealClock

    path = reseal(bundle, clock=SystemClock(), boot_id=RealClock().boot_id(), redact=Redactor(dict(os.environ)))
    print(f"Sealed as interrupted: {path}")
    return 0
