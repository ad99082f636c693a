"""``scan`` and ``doctor``: what is installed, read from its files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ongpu.cli.frame import AsJson, command, show
from ongpu.cli.look import Python, tell
from ongpu.cli.plan import Capabilities, Gpus
from ongpu.errors import DoorError, UsageError

if TYPE_CHECKING:  # other commands must not wait for these rooms
    from rich.console import RenderableType

    from ongpu.doctor import DoctorReport
    from ongpu.domain.arch import ComputeCapability, RuntimeVersion
    from ongpu.domain.coverage import ScanReport, ScanVerdict
    from ongpu.domain.machine import Machine

_STATUS_UNKNOWN = 3


class _Looked(NamedTuple):
    """A report, and what is known of where its files will run."""

    report: ScanReport
    runtime: RuntimeVersion | None = None
    driver_cuda: RuntimeVersion | None = None


@command("scan")
def scan(
    target: Annotated[
        Path | None,
        typer.Argument(help="A file (library, .cubin, .fatbin, .ptx), a folder, a wheel, a venv or a conda prefix."),
    ] = None,
    python: Python = None,
    gpu: Gpus = None,
    compute_capability: Capabilities = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="none|partial|jit",
            help="Exit 1 when a package is that bad or worse on a GPU you named; 3: unknown.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read the fat-binary sections only.")] = False,
    as_json: AsJson = False,
) -> int:
    """Read which precompiled CUDA code files, a wheel or an environment carry, and for which GPUs it runs.

    Without a target: the environment of --python. Without a GPU: one of each generation. Nothing of a target is run
    or imported; of --python the interpreter alone is started, to ask where its packages are.
    """
    from ongpu import scan as scanner
    from ongpu.domain.coverage import CodeVerdict

    limits = {"none": CodeVerdict.NONE, "partial": CodeVerdict.PARTIAL, "jit": CodeVerdict.JIT}
    limit = None if fail_on is None else limits.get(fail_on)
    if fail_on is not None and limit is None:
        raise UsageError(
            f"--fail-on {fail_on!r} is neither none, partial nor jit.", next_step="Use --fail-on none, partial or jit."
        )
    if target is not None and python is not None:
        raise UsageError(
            "Both a target and --python were given.", next_step="Name one: a file or folder, or an environment."
        )
    names = _devices(gpu or (), compute_capability or ())
    if limit is not None and not names:
        raise UsageError(
            "--fail-on judges for the GPUs you name, and none was named.",
            next_step="Add --gpu NAME or --compute-capability X.Y for each GPU it must run on.",
        )
    names = names or {device: name for name, device in scanner.GENERATIONS}
    looked = _look(target, python, deep=not quick)
    verdict = scanner.judge_coverage(
        looked.report, tuple(names), runtime=looked.runtime, driver_cuda=looked.driver_cuda
    )
    failing = () if limit is None else scanner.failing(verdict, fail_on=limit)
    failed = [f"{package} on {fit.device}: {fit.verdict.value}: {fit.reason}" for package, fit in failing]
    if as_json:
        from ongpu.report.json_text import to_json
        from ongpu.report.scan_document import scan_document

        sys.stdout.write(to_json("scan", scan_document(looked.report, verdict, failing=failed)))
    else:
        from ongpu.report.scan_terminal import scan as rendered

        show(rendered(looked.report, verdict, names=names, failing=failed))
    if limit is None:
        return 0
    if failed:
        return 1
    unknown = _unknown(verdict)
    for text in unknown:
        print(f"ongpu scan: not known: {text}", file=sys.stderr)
    return _STATUS_UNKNOWN if unknown else 0


def _unknown(verdict: ScanVerdict) -> list[str]:
    """What keeps a gate from saying yes where nothing fails: nothing to judge, or something that was not read."""
    from ongpu.domain.coverage import CodeVerdict

    found = [
        f"{package.name} on {fit.device}: {fit.reason}"
        for package in verdict.packages
        for fit in package.fits
        if fit.verdict is CodeVerdict.UNKNOWN
    ]
    nothing = [str(one.device) for one in verdict.overall if one.verdict is CodeVerdict.NO_CODE]
    if nothing:
        found.append(f"nothing here carries CUDA code that could be judged for {', '.join(nothing)}")
    return found


def _devices(gpus: Sequence[str], capabilities: Sequence[str]) -> dict[ComputeCapability, str]:
    """The GPUs that were named, each capability once, in the order they were named."""
    from ongpu.cli.rows import known_catalog
    from ongpu.domain.arch import ComputeCapability

    found: dict[ComputeCapability, str] = {}
    for name in gpus:
        found.setdefault(known_catalog().find_gpu(name).compute_capability, name)
    for text in capabilities:
        try:
            found.setdefault(ComputeCapability.parse(text), "")
        except ValueError as error:
            raise UsageError(f"{error}.", next_step="Give --compute-capability 12.0, or --gpu NAME.") from error
    return found


def _look(target: Path | None, python: str | None, *, deep: bool) -> _Looked:
    from ongpu import scan as scanner
    from ongpu.domain.coverage import PackageCoverage, ScanReport

    if target is None:
        return _environment(python, deep=deep)
    if target.is_dir():
        return _folder(target, deep=deep)
    if target.suffix == ".whl":
        return _Looked(report=scanner.scan_wheel_report(target, deep=deep))
    binary = scanner.scan_file(target, deep=deep)
    package = PackageCoverage(name=target.name, version="", binaries=(binary,))
    problems = tuple(f"{target}: {text}" for text in binary.problems)
    return _Looked(
        report=ScanReport(target=str(target), packages=(package,), problems=problems, files_read=1, deep=deep)
    )


def _environment(python: str | None, *, deep: bool) -> _Looked:
    """An environment by its Python. It runs on this machine, so this machine's driver compiles its PTX."""
    import os

    from ongpu import scan as scanner
    from ongpu.cli.outside import here
    from ongpu.environment import choose_python, read_environment
    from ongpu.machine.libcuda import ask_libcuda

    outside = here()
    variables = outside.host.environment()
    chosen = choose_python(python, cwd=outside.cwd, variables=variables)
    found = read_environment(chosen, processes=outside.processes)
    folders = [Path(one) for one in found.site_packages if Path(one).is_dir()]
    if found.kind in {"conda", "pixi"}:  # its libraries lie in the prefix, and conda-meta says whose they are
        folders.insert(0, Path(found.prefix))
    if not folders:
        raise UsageError(
            f"The environment of {chosen} has no folder of packages.",
            next_step="Name another one with --python, or a file or folder to scan.",
        )
    try:
        driver = ask_libcuda(outside.processes, python=Path(sys.executable), environment=dict(os.environ)).version
    except DoorError:  # no driver here: what it could compile is then not judged, and the answer says so
        driver = None
    return _Looked(
        report=scanner.scan_paths(folders, deep=deep),
        runtime=found.torch.runtime if found.torch else None,
        driver_cuda=driver,
    )


def _folder(folder: Path, *, deep: bool) -> _Looked:
    """A folder; of an environment (venv, conda prefix) its packages, found without starting anything in it."""
    from ongpu import scan as scanner
    from ongpu.domain.arch import RuntimeVersion

    folders = [folder]
    conda = (folder / "conda-meta").is_dir()
    if conda or (folder / "pyvenv.cfg").is_file():
        from ongpu.environment import read_files

        found = read_files(folder / "bin" / "python", reason="not started")
        inside = [Path(one) for one in found.site_packages]
        folders = [*([folder] if conda or not inside else []), *inside]
    versions = [scanner.read_torch_version(one / "torch")[1] for one in folders]
    cuda = next((one for one in versions if one is not None), None)
    try:
        runtime = RuntimeVersion.parse(cuda) if cuda is not None else None
    except ValueError:
        runtime = None
    return _Looked(report=scanner.scan_paths(folders, deep=deep), runtime=runtime)


def _examined(report: DoctorReport) -> RenderableType:
    from ongpu.report import terminal

    return terminal.doctor(report)


@command("doctor")
def doctor(
    python: Python = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also import torch, run the checks of `verify` on the GPU, and search all data of the files.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Can this environment train on this machine's GPU; if not, why, and what to type.

    Without --deep nothing is imported and nothing is run on the GPU.
    """
    from concurrent.futures import ThreadPoolExecutor

    from ongpu.cli.outside import here
    from ongpu.environment import choose_python, read_environment
    from ongpu.probe import probe

    outside = here()
    variables = outside.host.environment()
    chosen = choose_python(python, cwd=outside.cwd, variables=variables)
    with ThreadPoolExecutor(max_workers=2) as pool:
        # Both are answered by children, which run while the rooms that judge the answers are imported here.
        found = pool.submit(read_environment, chosen, processes=outside.processes)
        # The digests of the driver's files take 0.13 s, and are not judged here.
        look = functools.partial(probe, list_pythons=False, name_libraries=False)
        asked = pool.submit(look, nvml=outside.identity, processes=outside.processes, host=outside.host)

        def machine() -> Machine:
            if not as_json and not asked.done():
                from ongpu.report import terminal  # noqa: F401 - while the driver is waited for
            return asked.result()

        from ongpu.cli.rows import known_catalog
        from ongpu.doctor import examine
        from ongpu.domain.verdict import Outcome

        report = examine(
            chosen,
            machine=machine,
            environment=found.result,
            nvml=outside.nvml,
            processes=outside.processes,
            variables=variables,
            catalog=known_catalog,
            deep=deep,
        )
    tell("doctor", report, lambda: _examined(report), as_json=as_json)
    return {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}[report.outcome]
