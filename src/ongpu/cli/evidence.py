"""Commands on evidence: check, show, recover."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command
from ongpu.cli.keys import signer
from ongpu.errors import UsageError, WorkError

if TYPE_CHECKING:
    from ongpu.evidence.check import CheckReport
    from ongpu.evidence.trust import TrustedKey

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder or a zip file.")]
Require = Annotated[str | None, typer.Option(metavar="LEVEL", help="The level it must reach: A0 ... A4.")]
Nonce = Annotated[str | None, typer.Option(help="The challenge that this bundle must answer.")]
Trust = Annotated[
    Path | None, typer.Option(metavar="KEYS", help="File of the public keys you believe; A1 is then required.")
]
Ledger = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --nonce: your list of answered ones; each is good for one.")
]
_MAX_TRUST_BYTES = 1 << 20

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check a bundle: recompute its verdict and trust nothing in it."
)


@app.command("check")
@command("evidence")
def check(
    bundle: Bundle,
    require: Require = None,
    trust: Trust = None,
    nonce: Nonce = None,
    ledger: Ledger = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a JUnit report too.")] = None,
    result: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an in-toto verification result of an accepted bundle; new file."),
    ] = None,
    sign: Annotated[Path | None, typer.Option(metavar="KEY", help="Sign that result with your key.")] = None,
    as_json: AsJson = False,
) -> int:
    """Recompute the verdict from the raw observations and compare; refuse a bundle that was changed.

    Exit status: 0 intact, and the verdict is what its observations give; 1 refused; 3 simulated, or below --require.
    """
    from ongpu.evidence.check import check as examine
    from ongpu.evidence.show import visible
    from ongpu.report.json_text import to_json

    if sign is not None and result is None:
        raise UsageError("--sign signs a result, but none is asked for.", next_step="Add --result FILE.")
    signs = signer(sign)
    if ledger is not None and nonce is None:
        raise UsageError("--ledger is a list of nonces, but no nonce is asked for.", next_step="Add --nonce NONCE.")
    report = examine(bundle, require=require, nonce=nonce, trust=trusted(trust))
    if ledger is not None and nonce is not None:
        _spend(ledger, nonce, report)
    if junit is not None:
        from ongpu.report.junit import junit as as_junit

        _write(junit, as_junit(report).encode(), mode="wb")
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
    if result is not None:
        from ongpu.evidence.check import Answer
        from ongpu.evidence.result import verification_result

        if report.answer is Answer.ACCEPTED:
            made = verification_result(report, wall_s=time.time())
            _write(result, made if signs is None else signs.envelope(made), mode="xb")
        else:
            print(f"{result} was not written: the bundle was not accepted.", file=sys.stderr)
    return report.exit_status


def _write(path: Path, data: bytes, *, mode: str) -> None:
    try:
        with path.open(mode) as stream:
            stream.write(data)
    except OSError as error:
        raise WorkError(
            f"{path} could not be written: {error.strerror}.", next_step="Name a new file in a folder you may write to."
        ) from error


def trusted(path: Path | None) -> tuple[TrustedKey, ...]:
    """The keys of a file; none without one."""
    from ongpu.evidence.trust import read_trust

    if path is None:
        return ()
    try:
        with path.open("rb") as stream:
            return read_trust(stream.read(_MAX_TRUST_BYTES))
    except OSError as error:
        raise UsageError(
            f"The file of trusted keys {path} cannot be read: {error.strerror}.",
            next_step="Give the .pub file that ongpu keygen wrote, or a file of such lines.",
        ) from error


def _spend(ledger: Path, nonce: str, report: CheckReport) -> None:
    """Note the nonce as answered, by an accepted bundle only: a refused one must not use it up."""
    from ongpu.evidence.check import Answer
    from ongpu.evidence.keys import spend_nonce

    if report.answer is Answer.ACCEPTED and report.manifest_sha256 is not None:
        spend_nonce(ledger, nonce=nonce.strip(), manifest_sha256=report.manifest_sha256)


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
    from functools import partial

    from ongpu.evidence.journal import SystemClock
    from ongpu.evidence.redact import Redactor
    from ongpu.evidence.seal import recover as reseal
    from ongpu.machine.clock import RealClock
    from ongpu.report.pages import BundlePages

    path = reseal(
        bundle,
        clock=SystemClock(),
        boot_id=RealClock().boot_id(),
        redact=Redactor(dict(os.environ)),
        pages=partial(BundlePages().recovered, bundle),
    )
    print(f"Sealed as interrupted: {path}")
    return 0
