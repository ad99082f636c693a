"""Commands that work: enable, run, train."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ongpu.cli import keys
from ongpu.cli.frame import AsJson, command
from ongpu.cli.streams import tell
from ongpu.errors import UsageError, WorkError

Command = Annotated[list[str] | None, typer.Argument(help="The training command, after --.", show_default=False)]
Evidence = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the bundle; must be free.")]
ExpectGpu = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The GPU that must have trained: its model ('RTX 5090', 'H100 80GB HBM3') or its UUID (GPU-...).",
    ),
]
Pseudonymous = Annotated[
    bool, typer.Option("--pseudonymous", help="Replace host names, user, paths and GPU UUIDs in the evidence.")
]

Sign = Annotated[Path | None, typer.Option(metavar="KEY", help="Sign the evidence with this key of `ongpu keygen`.")]
Nonce = Annotated[
    str | None, typer.Option(metavar="N", help="Answer this nonce of `ongpu challenge`; it seeds the training.")
]
Trace = Annotated[
    int | None,
    typer.Option(metavar="N", help="Record which kernels ran in N of the training's steps (2 to 5; 3 is enough)."),
]


@command("enable")
def enable(
    words: Command = None,
    project: Annotated[Path | None, typer.Option(metavar="DIR", help="Your project's folder.")] = None,
    extra: Annotated[str | None, typer.Option(metavar="NAME", help="The extra of your project to install.")] = None,
    venv: Annotated[Path, typer.Option(metavar="DIR", help="The fresh environment.")] = Path(".venv-gpu"),
    expect_gpu: ExpectGpu = None,
    evidence: Evidence = None,
    python: Annotated[
        str | None, typer.Option(metavar="PY", help="Adopt this interpreter's environment instead of making one.")
    ] = None,
    rehearse: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Walk the road for a described machine, on the CPU; never proves anything."),
    ] = None,
    torch: Annotated[str | None, typer.Option(metavar="SPEC", help="Your torch requirement.")] = None,
    index_url: Annotated[str | None, typer.Option(help="Index of every package but torch's family.")] = None,
    find_links: Annotated[list[str] | None, typer.Option(metavar="DIR", help="Folder of wheels; repeatable.")] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Let an excluded package in.")] = None,
    pseudonymous: Pseudonymous = False,
    sign: Sign = None,
    nonce: Nonce = None,
    trace: Trace = None,
    as_json: AsJson = False,
) -> int:
    """Take this machine from "there is an NVIDIA GPU in it" to "training on it is proven", or name the cause.

    All phases: probe, plan, install, scan, smoke, train under guard, compare with the CPU, seal the evidence.
    """
    from ongpu.cli.live import LiveView, PatientConsole, PlainView, View
    from ongpu.cli.outside import doors
    from ongpu.cli.rehearsal import described
    from ongpu.enable import PHASES, EnableRequest
    from ongpu.enable import enable as walk
    from ongpu.report import terminal
    from ongpu.report.json_text import to_json

    if extra is not None and project is None and not Path("pyproject.toml").is_file():
        raise UsageError(
            "--extra names an extra of a project, but no project was given.", next_step="Add --project DIR."
        )
    request = EnableRequest(
        project=project or (Path() if extra is not None else None),
        extra=extra,
        venv=venv,
        expect_gpu=expect_gpu,
        evidence=evidence,
        python=python,
        rehearse=rehearse,
        command=tuple(words or ()),
        pseudonymous=pseudonymous,
        torch_spec=torch,
        index_url=index_url,
        find_links=tuple(find_links or ()),
        allow=tuple(allow or ()),
        signer=keys.signer(sign),
        nonce=keys.nonce(nonce),
        trace_steps=trace,
    )
    # With --json the document alone is on stdout; the view goes to stderr, as progress does everywhere.
    console = PatientConsole(stderr=as_json)
    view: View = LiveView(console, PHASES) if console.is_terminal else PlainView(console)
    machine = described(rehearse) if rehearse is not None else None
    with view:
        report = walk(request, doors=doors(), watch=view, described=machine, argv=tuple(sys.argv))
    if as_json:
        sys.stdout.write(to_json("enable", report))
    else:
        tell(terminal.enabled(report))
    return report.exit_status


@command("run")
def run(
    words: Command = None,
    evidence: Evidence = None,
    expect_gpu: ExpectGpu = None,
    fail_fast: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop the command when nothing has used the GPU by then.")
    ] = None,
    negative_control: Annotated[
        bool,
        typer.Option("--negative-control", help="Run it once more with CUDA hidden: that must not be taken for it."),
    ] = False,
    trace: Trace = None,
    pseudonymous: Pseudonymous = False,
    sign: Sign = None,
    nonce: Nonce = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the verdict here too.")
    ] = None,
) -> int:
    """Run any command under guard and judge whether it used the GPU. Its output and exit status are its own."""
    from ongpu.cli.outside import doors
    from ongpu.prove_run import RunRequest, prove_run
    from ongpu.report import terminal

    if json_file is not None:
        _check_writable(json_file)
    request = RunRequest(
        command=tuple(words or ()),
        evidence=evidence,
        expect_gpu=expect_gpu,
        fail_fast_s=fail_fast,
        pseudonymous=pseudonymous,
        signer=keys.signer(sign),
        nonce=keys.nonce(nonce),
        negative_control=negative_control,
        trace_steps=trace,
    )
    report = prove_run(
        request, doors=doors(), argv=tuple(sys.argv), console=sys.stdout.buffer, console_err=sys.stderr.buffer
    )
    tell(terminal.ran(report), to_stderr=True)
    if json_file is not None:
        try:
            json_file.write_bytes((Path(report.bundle) / "verdict.json").read_bytes())
        except OSError as error:
            raise WorkError(
                f"{json_file} could not be written: {error.strerror}.",
                next_step=f"The same document is in the evidence: {Path(report.bundle) / 'verdict.json'}",
            ) from error
    return report.exit_status


def _check_writable(path: Path) -> None:
    """Before a training of hours, not after it."""
    if path.is_dir():
        reason = "is a folder"
    elif not path.parent.is_dir():
        reason = "is in a folder that does not exist"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "cannot be written"
    else:
        return
    raise UsageError(f"--json {path} {reason}.", next_step="Name a file in a folder that you may write to.")


@command("train")
def train(
    context: typer.Context,
    python: Annotated[str | None, typer.Option(metavar="PY", help="Interpreter that has torch.")] = None,
    help_training: Annotated[bool, typer.Option("--help-training", help="Show the training's own options.")] = False,
) -> int:
    """The reference training, with the options of training/run_train_torch.py: see --help-training."""
    from ongpu.cli.outside import doors
    from ongpu.environment import choose_python
    from ongpu.stage import run_staged_training

    if help_training:  # needs no torch, so no environment either
        return run_staged_training(Path(sys.executable), ["--help"], environment=dict(os.environ))
    outside = doors()
    chosen = choose_python(python, cwd=outside.cwd, variables=outside.host.environment())
    return run_staged_training(chosen, context.args, environment=dict(os.environ))
