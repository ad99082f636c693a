"""Commands that work: enable, install, run, train."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ongpu.cli.frame import AsJson, command, show
from ongpu.errors import UsageError, WorkError

Command = Annotated[list[str] | None, typer.Argument(help="The training command, after --.", show_default=False)]
Evidence = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the bundle; must be free.")]
ExpectGpu = Annotated[
    str | None, typer.Option(metavar="NAME", help="The GPU model that must have trained: 'RTX 5090', 'H100 80GB HBM3'.")
]
Pseudonymous = Annotated[
    bool, typer.Option("--pseudonymous", help="Replace host names, user, paths and GPU UUIDs in the evidence.")
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
    from ongpu.report.document import to_json

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
        show(terminal.enabled(report))
    return report.exit_status


@command("install")
def install(
    venv: Annotated[Path, typer.Option(metavar="DIR", help="The fresh environment.")] = Path(".venv-gpu"),
    project: Annotated[Path | None, typer.Option(metavar="DIR", help="Your project's folder.")] = None,
    extra: Annotated[str | None, typer.Option(metavar="NAME", help="The extra of your project to install.")] = None,
    no_editable: Annotated[bool, typer.Option("--no-editable", help="Copy the project instead of linking it.")] = False,
    gpu: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Install for another machine's GPU.")] = None,
    driver: Annotated[str | None, typer.Option(help="With --gpu: the kernel-mode driver version there.")] = None,
    python: Annotated[str | None, typer.Option(metavar="X.Y", help="Python of the new environment.")] = None,
    torch: Annotated[str | None, typer.Option(metavar="SPEC", help="Your torch requirement.")] = None,
    index_url: Annotated[str | None, typer.Option(help="Index of every package but torch's family.")] = None,
    torch_index_url: Annotated[str | None, typer.Option(help="A mirror of PyTorch's index.")] = None,
    find_links: Annotated[list[str] | None, typer.Option(metavar="DIR", help="Folder of wheels; repeatable.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no index, only --find-links.")] = False,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Let an excluded package in.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve, show, install nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="An environment in the way may go.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make a fresh environment with the PyTorch build that runs on the GPU, and your project in it.

    torch is pinned to that build with its index; TPU, JAX and CPU-only packages are refused; what landed is read.
    """
    from ongpu import catalog, probe
    from ongpu import plan as planner
    from ongpu.cli.live import last_line
    from ongpu.cli.outside import doors
    from ongpu.environment import read_environment
    from ongpu.install import InstallRequest
    from ongpu.install import install as make
    from ongpu.proof.answers import EXIT_STATUS
    from ongpu.report import terminal
    from ongpu.report.document import to_json

    outside = doors()
    facts = catalog.load()
    if gpu:
        machine = planner.described(catalog=facts, gpus=gpu, driver=driver, python=python)
    else:
        machine = probe.probe(nvml=outside.nvml, processes=outside.processes, host=outside.host, list_pythons=False)
    version = python or outside.host.platform().version
    decision = planner.plan(machine, catalog=facts, request=planner.Request(torch_spec=torch, python=version))
    request = InstallRequest(
        decision=decision,
        venv=outside.cwd / venv,
        project=outside.cwd / project if project else None,
        extra=extra,
        editable=not no_editable,
        dry_run=dry_run,
        index_url=index_url,
        torch_index_url=torch_index_url,
        find_links=tuple(find_links or ()),
        offline=offline,
        allow=tuple(allow or ()),
        python=python,
        replace=replace,
    )
    console = Console(stderr=True)
    with console.status("resolving ...") as status:
        report = make(
            request,
            processes=outside.processes,
            environment=outside.host.environment(),
            read=lambda one: read_environment(one, processes=outside.processes),
            on_output=lambda data: status.update(last_line(data) or "working ..."),
        )
    if as_json:
        sys.stdout.write(to_json("install", report))
    else:
        show(terminal.install(report))
    if report.dry_run:
        return 0
    return EXIT_STATUS[report.outcome]


@command("run")
def run(
    words: Command = None,
    evidence: Evidence = None,
    expect_gpu: ExpectGpu = None,
    fail_fast: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop the command when nothing has used the GPU by then.")
    ] = None,
    pseudonymous: Pseudonymous = False,
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
    )
    report = prove_run(
        request, doors=doors(), argv=tuple(sys.argv), console=sys.stdout.buffer, console_err=sys.stderr.buffer
    )
    show(terminal.ran(report), to_stderr=True)
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
