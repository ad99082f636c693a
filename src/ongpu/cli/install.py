"""A fresh environment with the PyTorch build that runs on the GPU: ``ongpu install``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.cli.plan import Companions, Gpus
from ongpu.errors import UsageError

if TYPE_CHECKING:
    from ongpu.domain.machine import Machine
    from ongpu.install import InstallReport


@command("install")
def install(
    venv: Annotated[Path, typer.Option(metavar="DIR", help="The fresh environment.")] = Path(".venv-gpu"),
    project: Annotated[Path | None, typer.Option(metavar="DIR", help="Your project's folder.")] = None,
    extra: Annotated[str | None, typer.Option(metavar="NAME", help="The extra of your project to install.")] = None,
    no_editable: Annotated[bool, typer.Option("--no-editable", help="Copy the project instead of linking it.")] = False,
    gpu: Gpus = None,
    driver: Annotated[str | None, typer.Option(help="With --gpu: the kernel-mode driver version there.")] = None,
    os: Annotated[str | None, typer.Option(help="With --gpu and --dry-run: linux or windows.")] = None,
    arch: Annotated[str | None, typer.Option(help="With --gpu and --dry-run: x86_64 or aarch64.")] = None,
    glibc: Annotated[str | None, typer.Option(help="With --gpu and --dry-run: glibc there, 2.35.")] = None,
    python: Annotated[str | None, typer.Option(metavar="X.Y", help="Python of the new environment.")] = None,
    torch: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Your torch requirement. [default: your project's]")
    ] = None,
    companion: Companions = None,
    index_url: Annotated[str | None, typer.Option(help="Index of every package but torch's family.")] = None,
    torch_index_url: Annotated[str | None, typer.Option(help="A mirror of PyTorch's index.")] = None,
    find_links: Annotated[list[str] | None, typer.Option(metavar="DIR", help="Folder of wheels; repeatable.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no index, only --find-links.")] = False,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Let an excluded package in.")] = None,
    lock: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep what was resolved: pylock.toml.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve, show, install nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="An environment in the way may go.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make a fresh environment with the PyTorch build that runs on the GPU, and your project in it.

    torch is pinned to that build with its index; TPU, JAX and CPU-only packages are refused; what landed is read.
    """
    from rich.console import Console

    from ongpu import plan as planner
    from ongpu.cli.installing import telling
    from ongpu.cli.outside import doors
    from ongpu.cli.rows import known_catalog
    from ongpu.environment import read_environment
    from ongpu.install import InstallRequest, markers_for, platform_of, read_project
    from ongpu.install import install as make
    from ongpu.proof.answers import EXIT_STATUS

    outside = doors()
    facts = known_catalog()
    here = outside.host.platform()
    elsewhere = any((os, arch, glibc))
    if elsewhere and not (gpu and dry_run):
        raise UsageError(
            "--os, --arch and --glibc describe another machine, for which an environment cannot be made here.",
            next_step="Add --gpu NAME and --dry-run to resolve for it, or leave them out.",
        )
    if driver is not None and not gpu:
        raise UsageError("--driver describes another machine, but no GPU was named.", next_step="Add --gpu NAME.")
    version = python or here.version
    if gpu:
        # The environment is made here, for use there: what is not said to differ is as it is here.
        machine = planner.described(
            catalog=facts,
            gpus=gpu,
            driver=driver,
            os=os or (here.os if not elsewhere else None),
            arch=arch or (here.arch if not elsewhere else None),
            glibc=glibc or (here.glibc if not elsewhere else None),
            python=version,
        )
    else:
        from ongpu.probe import probe

        machine = probe(nvml=outside.nvml, processes=outside.processes, host=outside.host, list_pythons=False)
    platform = platform_of(machine) if elsewhere else None
    folder = outside.cwd / project if project else None
    if torch is None and folder is not None:
        asked = read_project(folder, extra=extra)
        torch = asked.requirement_of("torch", markers=markers_for(platform, python=version))
    wanted = planner.Request(torch_spec=torch, python=version, companions=tuple(companion or ()))
    decision = planner.plan(machine, catalog=facts, request=wanted)
    request = InstallRequest(
        decision=decision,
        venv=outside.cwd / venv,
        project=folder,
        extra=extra,
        requirements=tuple(word for word in decision.command if word.startswith(("torchvision==", "torchaudio=="))),
        editable=not no_editable,
        dry_run=dry_run,
        index_url=index_url,
        torch_index_url=torch_index_url,
        find_links=tuple(find_links or ()),
        offline=offline,
        allow=tuple(allow or ()),
        python=version if platform is not None else python,
        replace=replace,
        platform=platform,
        lock_file=outside.cwd / lock if lock else None,
    )
    console = Console(stderr=True)
    with console.status("resolving ...") as status:
        report = make(
            request,
            processes=outside.processes,
            environment=outside.host.environment(),
            read=lambda one: read_environment(one, processes=outside.processes),
            on_output=telling(status.update, on_terminal=console.is_terminal),
        )
        if not dry_run:
            status.update("reading torch's CUDA code ...")
            report = _scanned(report, machine)
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("install", report))
    else:
        from ongpu.report import terminal

        show(terminal.install(report))
    return 0 if report.dry_run else EXIT_STATUS[report.outcome]


def _scanned(report: InstallReport, machine: Machine) -> InstallReport:
    """The report with what torch's own binaries carry for each GPU: read from the files, whatever was planned."""
    from ongpu import scan
    from ongpu.domain.coverage import CodeVerdict
    from ongpu.domain.verdict import Cause, Outcome

    found = report.environment
    if report.outcome is not Outcome.PROVEN or found is None or found.torch is None:
        return report
    for name, capability in dict.fromkeys((one.name, one.compute_capability) for one in machine.devices):
        if capability is None:
            continue
        read = scan.torch_coverage(Path(found.torch.path), capability)
        report = dataclasses.replace(report, notes=(*report.notes, f"scan, for {name} ({capability}): {read.reason}"))
        if read.verdict in (CodeVerdict.NONE, CodeVerdict.NO_CODE):
            return dataclasses.replace(
                report,
                outcome=Outcome.REFUTED,
                cause=read.cause or Cause.WHEEL_NO_ARCH,
                reason=f"the torch that landed cannot run on {name}: {read.reason}",
            )
    return report
