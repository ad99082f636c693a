"""Commands that look and change nothing: probe, plan, scan, doctor, verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.cli.plan import Capabilities, Gpus
from ongpu.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

Python = Annotated[
    str | None,
    typer.Option(metavar="PY", help="Interpreter of the environment to look at. [default: active, .venv-gpu, .venv]"),
]


def _show(name: str, value: object, rendered: RenderableType, *, as_json: bool) -> None:
    if as_json:
        from ongpu.report.document import to_json

        sys.stdout.write(to_json(name, value))
    else:
        show(rendered)


@command("probe")
def probe(as_json: AsJson = False) -> int:
    """Read the machine: GPUs, driver, OS, glibc, Pythons, container, WSL. Never imports torch."""
    from ongpu.cli.outside import doors
    from ongpu.probe import probe as read
    from ongpu.report import terminal

    outside = doors()
    found = read(nvml=outside.nvml, processes=outside.processes, host=outside.host)
    _show("probe", found, terminal.machine(found), as_json=as_json)
    return 0


@command("scan")
def scan(
    target: Annotated[
        Path | None, typer.Argument(help="A file, a folder or a wheel; without it, an environment.")
    ] = None,
    python: Python = None,
    gpu: Gpus = None,
    compute_capability: Capabilities = None,
    fail_on: Annotated[str | None, typer.Option(metavar="none|jit", help="Exit 1 when a package is that bad.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read the fat-binary sections only.")] = False,
    as_json: AsJson = False,
) -> int:
    """Read which precompiled CUDA code a file, a wheel or an environment carries, and judge it for a GPU."""
    from ongpu import catalog
    from ongpu import scan as scanner
    from ongpu.cli.outside import doors
    from ongpu.domain.arch import ComputeCapability
    from ongpu.domain.coverage import CodeVerdict, PackageCoverage, ScanReport
    from ongpu.environment import choose_python, read_environment
    from ongpu.report import terminal
    from ongpu.report.document import scan_document

    if fail_on not in {None, "none", "jit"}:
        raise UsageError(f"--fail-on {fail_on!r} is neither none nor jit.", next_step="Use --fail-on none or jit.")
    try:
        devices = [ComputeCapability.parse(text) for text in compute_capability or ()]
    except ValueError as error:
        raise UsageError(f"{error}.", next_step="Give --compute-capability 12.0, or --gpu NAME.") from error
    devices += [catalog.load().find_gpu(name).compute_capability for name in gpu or ()]
    runtime = None
    if target is None:
        outside = doors()
        chosen = choose_python(python, cwd=outside.cwd, variables=outside.host.environment())
        found = read_environment(chosen, processes=outside.processes)
        runtime = found.torch.runtime if found.torch else None
        report = scanner.scan_paths([Path(one) for one in found.site_packages], deep=not quick)
    elif target.suffix == ".whl":
        report = scanner.scan_wheel_report(target, deep=not quick)
    elif target.is_dir():
        report = scanner.scan_paths([target], deep=not quick)
    else:
        binary = scanner.scan_file(target, deep=not quick)
        package = PackageCoverage(name=target.name, version="", binaries=(binary,))
        report = ScanReport(target=str(target), packages=(package,), problems=binary.problems, files_read=1)
    verdict = scanner.judge_coverage(report, devices, runtime=runtime)
    _show("scan", scan_document(report, verdict), terminal.scan(report, verdict), as_json=as_json)
    limit = {"none": CodeVerdict.NONE, "jit": CodeVerdict.JIT}.get(fail_on or "")
    return 1 if limit is not None and scanner.failing(verdict, fail_on=limit) else 0


@command("doctor")
def doctor(
    python: Python = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also search the data outside the fat-binary sections.")] = False,
    as_json: AsJson = False,
) -> int:
    """Can this environment train on this machine's GPU; if not, why, and what to type. Nothing is imported or run."""
    from ongpu import catalog
    from ongpu.cli.outside import doors
    from ongpu.doctor import examine
    from ongpu.domain.verdict import Outcome
    from ongpu.environment import choose_python
    from ongpu.report import terminal

    outside = doors()
    chosen = choose_python(python, cwd=outside.cwd, variables=outside.host.environment())
    report = examine(
        chosen,
        nvml=outside.nvml,
        processes=outside.processes,
        host=outside.host,
        catalog=catalog.load,
        deep=deep,
    )
    _show("doctor", report, terminal.doctor(report), as_json=as_json)
    return {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}[report.outcome]


@command("verify")
def verify(python: Python = None, as_json: AsJson = False) -> int:
    """Run the smoke checks on the GPU in an environment: torch's own answer, checked products, held memory."""
    import os

    from ongpu.cli.outside import doors
    from ongpu.domain.verdict import Outcome
    from ongpu.environment import choose_python
    from ongpu.errors import DoorError
    from ongpu.report import terminal
    from ongpu.smoke import run_smoke

    outside = doors()
    chosen = choose_python(python, cwd=outside.cwd, variables=outside.host.environment())
    try:
        nvml = outside.nvml()
    except DoorError as error:
        print(f"NVML cannot be asked: {error}", file=sys.stderr)
        nvml = None
    report = run_smoke(python=chosen, uuid=None, nvml=nvml, processes=outside.processes, environment=dict(os.environ))
    _show("verify", report, terminal.smoke(report), as_json=as_json)
    return {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}[report.outcome]
