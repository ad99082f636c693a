"""Joins the guard and the evidence for one command of the user's: ``ongpu run``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ongpu import __version__, probe
from ongpu.domain.verdict import Outcome, Verdict
from ongpu.errors import UsageError
from ongpu.evidence.journal import free_sibling
from ongpu.guard.session import GuardResult, GuardSettings
from ongpu.proof import LOG_FILE, Bundle, Doors, Start, redactor_for

_DEFAULT_BUNDLE = Path("ongpu_runs/run")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One command to prove. ``evidence`` is the bundle's folder; without it, the next free ``ongpu_runs/run``."""

    command: tuple[str, ...]
    evidence: Path | None = None
    expect_gpu: str | None = None
    fail_fast_s: float | None = None
    pseudonymous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How it ended. ``status`` is the command's own."""

    verdict: Verdict
    bundle: str
    status: int
    stopped: str | None

    @property
    def exit_status(self) -> int:
        """The command's own status where that is not 0; else 0 proven, 1 refuted, 3 unknown or stopped by us."""
        if self.stopped is not None:
            return 3
        if self.status != 0:
            return self.status
        return {Outcome.PROVEN: 0, Outcome.REFUTED: 1, Outcome.UNKNOWN: 3}[self.verdict.outcome]


def prove_run(
    request: RunRequest, *, doors: Doors, argv: tuple[str, ...], console: BinaryIO, console_err: BinaryIO
) -> RunReport:
    """Run the command under guard and seal what was observed.

    :raises UsageError: there is no command, it cannot be started, or the folder is taken.
    """
    environment = dict(doors.host.environment())
    if not request.command:
        raise UsageError("There is no command to run.", next_step="Type it after --: ongpu run -- python train.py")
    if shutil.which(request.command[0], path=environment.get("PATH")) is None:
        raise UsageError(
            f"{request.command[0]!r} is no command that can be started here.",
            next_step="Check its spelling, or give its path: ongpu run -- ./train.sh",
        )
    folder = doors.cwd / request.evidence if request.evidence else free_sibling(doors.cwd / _DEFAULT_BUNDLE)
    start = Start(
        profile="run",
        argv=argv,
        expect_gpu=request.expect_gpu,
        simulated=False,
        compare_cpu=False,
        tool_version=__version__,
    )
    redactor = redactor_for(doors, pseudonymous=request.pseudonymous)
    bundle = Bundle.open(folder, start=start, doors=doors, redactor=redactor)
    machine = probe.probe(nvml=doors.nvml, processes=doors.processes, host=doors.host, list_pythons=False)
    bundle.value("machine", machine)
    settings = GuardSettings(
        role="train",
        environment=environment,
        cwd=doors.cwd,
        log_path=folder / LOG_FILE,
        fail_fast_s=request.fail_fast_s,
    )
    result = bundle.guarded(request.command, settings=settings, console=console, console_err=console_err)
    bundle.text("env_info.txt", doors.pages.env_info(bundle.observations()))
    sealed = bundle.close(end=_end(result))
    return RunReport(verdict=sealed.verdict, bundle=str(sealed.folder), status=result.status, stopped=result.stopped)


def _end(result: GuardResult) -> str:
    if result.interrupted:
        return "interrupted"
    return "completed" if result.status == 0 and result.stopped is None else "failed"
