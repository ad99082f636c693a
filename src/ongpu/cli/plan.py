"""Which PyTorch build for a machine: ``ongpu plan``."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.cli.rows import Rows, known_catalog, write_whole
from ongpu.errors import UsageError

if TYPE_CHECKING:
    from ongpu.catalog import Catalog
    from ongpu.cli.newer import Newer
    from ongpu.domain.build import Decision
    from ongpu.domain.machine import Machine
    from ongpu.plan import Request
    from ongpu.report.plan_document import LockDocument

Gpus = Annotated[list[str] | None, typer.Option("--gpu", metavar="NAME", help="A GPU by its model name; repeatable.")]
Capabilities = Annotated[
    list[str] | None, typer.Option("--compute-capability", metavar="X.Y", help="A GPU by its capability; repeatable.")
]
Companions = Annotated[
    list[str] | None, typer.Option("--companion", metavar="NAME", help="torchvision or torchaudio too; repeatable.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not ask the index for releases newer than the catalog.")]


@command("plan")
def plan(
    gpu: Gpus = None,
    compute_capability: Capabilities = None,
    driver: Annotated[str | None, typer.Option(help="Kernel-mode driver version: 580.95.05, or a branch: 580.")] = None,
    modules: Annotated[str | None, typer.Option(help="Linux kernel modules: open or proprietary.")] = None,
    os: Annotated[str | None, typer.Option(help="linux or windows.")] = None,
    arch: Annotated[str | None, typer.Option(help="x86_64 or aarch64.")] = None,
    wsl: Annotated[bool, typer.Option("--wsl", help="Linux under WSL: the driver is the Windows one.")] = False,
    python: Annotated[str | None, typer.Option(metavar="X.Y", help="Python version: 3.12, 3.13t.")] = None,
    glibc: Annotated[str | None, typer.Option(help="glibc version: 2.35.")] = None,
    torch: Annotated[str | None, typer.Option(metavar="SPEC", help="Your requirement: 'torch>=2.8,<2.10'.")] = None,
    channel: Annotated[str, typer.Option(help="stable, nightly or any.")] = "stable",
    companion: Companions = None,
    check: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Judge an install command you were given.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a lock with hashes for that machine: pylock.toml, or a .txt file."),
    ] = None,
    find_links: Annotated[
        str | None, typer.Option(metavar="DIR", help="With --lock: a folder of wheels, and no index.")
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Also the lines to write down for: uv, pixi, docker or notebook."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the script here if the answer is to build from source.")
    ] = None,
    rows: Rows = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> int:
    """Choose the PyTorch build for this machine, or for another one that you describe.

    With --gpu or --compute-capability no fact of this machine is used; what is missing is assumed, and said.
    """
    from ongpu import plan as planner
    from ongpu.cli.newer import Newer
    from ongpu.domain.build import DecisionKind

    form = _form(lock) if lock is not None else None
    if find_links is not None and lock is None:
        raise UsageError("--find-links is for the lock.", next_step="Add --lock pylock.toml, or leave it out.")
    if lines is not None:
        _known_place(lines)
    newer = Newer(offline=offline or check is not None)
    facts = known_catalog(rows)
    if gpu or compute_capability:
        machine = planner.described(
            catalog=facts,
            gpus=gpu or (),
            compute_capabilities=compute_capability or (),
            driver=driver,
            modules=modules,
            os=os,
            arch=arch,
            wsl=wsl,
            python=python,
            glibc=glibc,
        )
    elif any((driver, modules, os, arch, wsl, glibc)):
        raise UsageError(
            "--driver, --modules, --os, --arch, --wsl and --glibc describe another machine, but its GPU was not named.",
            next_step="Add --gpu NAME or --compute-capability X.Y, or leave them out to plan for this machine.",
        )
    else:
        from ongpu.cli.outside import doors
        from ongpu.probe import probe as read

        outside = doors()
        machine = read(nvml=outside.nvml, processes=outside.processes, host=outside.host, list_pythons=False)
        python = python or outside.host.platform().version
    request = planner.Request(torch_spec=torch, channel=channel, python=python, companions=tuple(companion or ()))
    if check is not None:
        return _check(check, machine, facts, request, as_json=as_json)
    decision = planner.plan(machine, catalog=facts, request=request)
    locked = _lock(decision, machine, lock, form=form, find_links=find_links) if lock is not None and form else None
    written = _recipe(decision, recipe) if recipe is not None else None
    text = _lines(decision, lines) if lines is not None else None
    _answer(decision, facts, newer, lock=locked, recipe_file=written, lines=text, as_json=as_json)
    return 3 if decision.decision is DecisionKind.BLOCKED else 0


def _answer(
    decision: Decision,
    facts: Catalog,
    newer: Newer,
    *,
    lock: LockDocument | None,
    recipe_file: str | None,
    lines: str | None,
    as_json: bool,
) -> None:
    from ongpu.catalog.fresh import freshness
    from ongpu.report.plan_document import plan_document

    newer.wait()
    fresh = freshness(
        facts.builds,
        today=datetime.datetime.now(datetime.UTC).date(),
        on_index=newer.releases,
        not_asked=newer.not_asked,
    )
    document = plan_document(decision, catalog=fresh, lock=lock, recipe_file=recipe_file, lines=lines)
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("plan", document))
    else:
        from ongpu.report import plan_terminal

        show(plan_terminal.decision(document))


def _check(command_line: str, machine: Machine, facts: Catalog, request: Request, *, as_json: bool) -> int:
    from ongpu.plan import judge_command

    judged = judge_command(command_line, machine, catalog=facts, request=request)
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json("plan-check", judged))
    else:
        from ongpu.report import plan_terminal

        show(plan_terminal.advice(judged))
    return {True: 0, False: 1, None: 3}[judged.works]


def _form(file: Path) -> str:
    """What is written, by the file's name: PEP 751 fixes the names of its locks."""
    name = file.name
    if file.is_dir():
        raise UsageError(f"--lock {str(file)!r} is a folder.", next_step=f"Name a file: --lock {file / 'pylock.toml'}.")
    if name == "pylock.toml" or (name.startswith("pylock.") and name.endswith(".toml") and name.count(".") == 2):
        return "pylock"
    if name.endswith(".txt"):
        return "requirements"
    raise UsageError(
        f"--lock {name!r} is no name of a lock.",
        next_step="Name it pylock.toml or pylock.NAME.toml (PEP 751), or requirements.txt.",
    )


def _lock(decision: Decision, machine: Machine, file: Path, *, form: str, find_links: str | None) -> LockDocument:
    import hashlib
    import os
    import re

    from rich.console import Console

    from ongpu.install.uv import clean_environment, find_uv
    from ongpu.machine.process import RealProcesses
    from ongpu.plan.lock import lock
    from ongpu.report.plan_document import LockDocument

    # uv's configuration files could add an index; its variable for a mirror is the user's word.
    mirror = {name: os.environ[name] for name in ("UV_DEFAULT_INDEX",) if name in os.environ}
    with Console(stderr=True).status("locking ..."):
        text = lock(
            decision,
            machine,
            processes=RealProcesses(),
            uv=str(find_uv()),
            form=form,
            python=sys.executable,
            find_links=str(Path(find_links).absolute()) if find_links is not None else None,
            env={**clean_environment(os.environ), **mirror, "UV_NO_CONFIG": "1"},
        )
    write_whole(file, text)
    entries = re.findall(r"(?m)^\[\[packages\]\]" if form == "pylock" else r"(?m)^[A-Za-z0-9][^\s=]*==", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return LockDocument(path=str(file), form=form, packages=len(entries), sha256=digest)


def _known_place(place: str) -> None:
    from ongpu.install.advice import LINES

    if place not in LINES:
        raise UsageError(
            f"--lines {place!r} is no place that lines are known for.", next_step=f"Use {', '.join(LINES)}."
        )


def _lines(decision: Decision, place: str) -> str | None:
    from ongpu.domain.build import DecisionKind
    from ongpu.install.advice import lines_for

    if decision.decision is not DecisionKind.PREBUILT:
        return None
    return lines_for(place, decision, python=(decision.python or "3.12").removesuffix("t"))


def _recipe(decision: Decision, file: Path) -> str | None:
    if not decision.recipe:
        return None
    if file.is_dir():
        raise UsageError(f"--recipe {str(file)!r} is a folder.", next_step="Name a file, such as build-torch.sh.")
    write_whole(file, "\n".join(decision.recipe) + "\n", mode=0o755)
    return str(file)
