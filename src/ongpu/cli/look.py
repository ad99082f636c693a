"""Commands that look and change nothing: probe, verify."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from ongpu.domain.machine import Machine
    from ongpu.smoke import SmokeReport

Python = Annotated[
    str | None,
    typer.Option(metavar="PY", help="Interpreter of the environment to look at. [default: active, .venv-gpu, .venv]"),
]


def tell(name: str, value: object, rendered: Callable[[], RenderableType], *, as_json: bool) -> None:
    """Print an answer: one JSON document, or text, which alone needs the terminal library."""
    if as_json:
        from ongpu.report.json_text import to_json

        sys.stdout.write(to_json(name, value))
    else:
        show(rendered())


def _machine(found: Machine) -> RenderableType:
    from ongpu.report import terminal

    return terminal.machine(found)


def _smoke(report: SmokeReport) -> RenderableType:
    from ongpu.report import terminal

    return terminal.smoke(report)


@command("probe")
def probe(as_json: AsJson = False) -> int:
    """Read the machine: GPUs, driver, OS, glibc, Pythons, container, WSL. Never imports torch."""
    from ongpu.cli.outside import here
    from ongpu.probe import probe as read

    outside = here()
    found = read(nvml=outside.identity, processes=outside.processes, host=outside.host)
    tell("probe", found, lambda: _machine(found), as_json=as_json)
    return 0


@command("verify")
def verify(python: Python = None, as_json: AsJson = False) -> int:
    """Run the smoke checks on the GPU in an environment: torch's own answer, checked products, held memory."""
    import os

    from ongpu.cli.outside import here
    from ongpu.domain.verdict import Outcome
    from ongpu.environment import choose_python
    from ongpu.errors import DoorError
    from ongpu.smoke import run_smoke

    outside = here()
    chosen = choose_python(python, cwd=outside.cwd, variables=outside.host.environment())
    try:
        nvml = outside.nvml()
    except DoorError as error:
        print(f"NVML cannot be asked: {error}", file=sys.stderr)
        nvml = None
    report = run_smoke(python=chosen, uuid=None, nvml=nvml, processes=outside.processes, environment=dict(os.environ))
    tell("verify", report, lambda: _smoke(report), as_json=as_json)
    return {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}[report.outcome]
