"""Joins the guard and the evidence for one command of the user's (``ongpu run``), or one part of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ongpu import __version__, probe
from ongpu.domain.verdict import Cause, Verdict
from ongpu.errors import BlockedError, InterruptedRunError, OngpuError, UsageError
from ongpu.evidence.challenge import seed
from ongpu.evidence.dsse import Signer
from ongpu.evidence.place import free_sibling
from ongpu.guard.here import guard_here
from ongpu.guard.session import GuardResult, GuardSettings
from ongpu.proof.answers import (
    EXIT_STATUS,
    check_command,
    check_expected_gpu,
    check_seeded,
    check_trace_steps,
    next_after,
)
from ongpu.proof.blocked import RUN_PHASE, failure_of_log, record_block
from ongpu.proof.bundle import LOG_FILE, Bundle, Start
from ongpu.proof.doors import Doors, redactor_for
from ongpu.proof.part import check_torch_is_here, record_failure, sow

_DEFAULT_BUNDLE = Path("ongpu_runs/run")
_DEFAULT_PART = Path("ongpu_runs/part")
_CONTROL_LOG = "negative_control_log.txt"
# On the CPU a training may take days; that it is on the CPU is seen in its first steps.
_CONTROL_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One command to prove. ``evidence`` is the bundle's folder; without it, the next free ``ongpu_runs/run``.

    :param signer: signs the sealed bundle.
    :param nonce: the reviewer's challenge; the command must carry the seed that follows from it.
    :param negative_control: run the command once more with CUDA hidden, which must not be taken for GPU training.
    :param trace_steps: record the kernels of that many steps (2 to 5) from inside the training.
    """

    command: tuple[str, ...]
    evidence: Path | None = None
    expect_gpu: str | None = None
    fail_fast_s: float | None = None
    pseudonymous: bool = False
    signer: Signer | None = None
    nonce: str | None = None
    negative_control: bool = False
    trace_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How it ended. ``status`` is the command's own; ``interrupted`` by the user, ``stopped`` by us, and why.

    ``failure`` is what the log of a command that failed names as the cause.
    """

    verdict: Verdict
    bundle: str
    status: int
    stopped: str | None
    interrupted: bool = False
    failure: BlockedError | None = None

    @property
    def exit_status(self) -> int:
        """The command's own status where that is not 0; else 130 interrupted, 0 proven, 1 refuted, 3 unknown.

        Stopped by us is 3 whatever the command answered to that.
        """
        if self.stopped is not None:
            return 3
        if self.status != 0:
            return self.status
        if self.interrupted:
            return InterruptedRunError.exit_status
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def next_step(self) -> str:
        """What to type now."""
        if self.failure is not None and self.verdict.cause is not Cause.SILENT_CPU:
            return self.failure.next_step
        return next_after(self.verdict, self.bundle)


def prove_run(
    request: RunRequest, *, doors: Doors, argv: tuple[str, ...], console: BinaryIO, console_err: BinaryIO
) -> RunReport:
    """Run the command under guard and seal what was observed.

    :raises UsageError: there is no command, it cannot be started, or the folder is taken.
    :raises WorkError: the evidence could not be written.
    :raises InterruptedRunError: interrupted before the command began; afterwards the report says so.
    """
    environment = dict(doors.host.environment())
    check_command(request.command, path=environment.get("PATH"), example="ongpu run -- python train.py")
    check_expected_gpu(request.expect_gpu)
    check_seeded(request.command, request.nonce)
    check_trace_steps(request.trace_steps)
    if request.fail_fast_s is not None and not request.fail_fast_s > 0:
        raise UsageError(
            f"--fail-fast {request.fail_fast_s:g} is no time to wait.", next_step="Give seconds, for example 60."
        )
    folder = doors.cwd / request.evidence if request.evidence else free_sibling(doors.cwd / _DEFAULT_BUNDLE)
    start = Start(
        profile="run",
        argv=argv,
        expect_gpu=request.expect_gpu,
        simulated=False,
        compare_cpu=False,
        tool_version=__version__,
        nonce=request.nonce,
    )
    redactor = redactor_for(doors, pseudonymous=request.pseudonymous)
    settings = GuardSettings(
        role="train",
        environment=environment,
        cwd=doors.cwd,
        log_path=folder / LOG_FILE,
        fail_fast_s=request.fail_fast_s,
        trace_steps=request.trace_steps,
    )
    # Interrupts act while the command runs, and wait while the bundle is made and closed.
    with doors.interrupts as interrupts, interrupts.held():
        bundle = Bundle.open(folder, start=start, doors=doors, redactor=redactor, signer=request.signer)
        result: GuardResult | None = None
        failure: BlockedError | None = None
        try:
            with interrupts.released():
                machine = probe.probe(nvml=doors.nvml, processes=doors.processes, host=doors.host, list_pythons=False)
                bundle.value("machine", machine)
                result = bundle.guarded(request.command, settings=settings, console=console, console_err=console_err)
                if request.negative_control and _end(result) == "completed":
                    _negative_control(bundle, request.command, settings, seconds=result.seconds)
            if _end(result) == "failed":
                failure = failure_of_log(folder / LOG_FILE, _how(result))
                record_block(bundle, failure, phase=RUN_PHASE)
        except KeyboardInterrupt:
            sealed = bundle.close(end="interrupted")
            raise InterruptedRunError(
                "Interrupted before the command had ended." if result is None else "Interrupted.",
                next_step=f"What was observed is sealed in {sealed.folder}; run it again for a new bundle.",
            ) from None
        except BaseException:
            with contextlib.suppress(OngpuError):  # the first error is the one to tell
                bundle.close(end="failed")
            raise
        sealed = bundle.close(end=_end(result))
        if interrupts.waiting:
            raise InterruptedRunError(
                "Interrupted while the evidence was sealed.",
                next_step=f"It is complete: ongpu evidence check {sealed.folder}",
            )
    return RunReport(
        verdict=sealed.verdict,
        bundle=str(sealed.folder),
        status=result.status,
        stopped=result.stopped,
        interrupted=result.interrupted,
        failure=failure,
    )


@dataclass(slots=True, kw_only=True)
class Part:
    """A guarded part of this process. ``report`` is there once the part has ended and its bundle is sealed.

    ``seed`` is what a nonce asks the training to start from: ``random``, NumPy and torch have it when the part begins.
    """

    report: RunReport | None = None
    seed: int | None = None


@contextlib.contextmanager
def prove_here(
    *,
    doors: Doors,
    evidence: Path | None = None,
    expect_gpu: str | None = None,
    pseudonymous: bool = False,
    signer: Signer | None = None,
    nonce: str | None = None,
    trace_steps: int | None = None,
) -> Iterator[Part]:
    """Watch this process while the block runs, then seal what was observed. The block's own error is passed on.

    What the block prints is not kept: a notebook's output is not ours to take. An error that ends it is kept.

    :param evidence: the bundle's folder; without it, the next free ``ongpu_runs/part``.
    :param nonce: the reviewer's challenge; the generators of this process are seeded with what follows from it.
    :param trace_steps: record the kernels of that many steps (2 to 5).
    :raises UsageError: the folder is taken, the expectation is empty, or torch is not there to be seeded. The block did
        not begin.
    :raises WorkError: the evidence could not be written.
    """
    check_expected_gpu(expect_gpu)
    check_trace_steps(trace_steps)
    part = Part()
    argv: tuple[str, ...] = ("ongpu.notebook.guard",)
    if nonce is not None:
        check_torch_is_here()
        part.seed = seed(nonce)
        argv = (*argv, "--seed", str(part.seed))
    folder = doors.cwd / evidence if evidence else free_sibling(doors.cwd / _DEFAULT_PART)
    start = Start(
        profile="run",
        argv=argv,
        expect_gpu=expect_gpu,
        simulated=False,
        compare_cpu=False,
        tool_version=__version__,
        nonce=nonce,
    )
    settings = GuardSettings(role="train", environment=doors.host.environment(), cwd=doors.cwd, trace_steps=trace_steps)
    failure: BlockedError | None = None
    with doors.interrupts as interrupts, interrupts.held():
        redactor = redactor_for(doors, pseudonymous=pseudonymous)
        bundle = Bundle.open(folder, start=start, doors=doors, redactor=redactor, signer=signer)
        end = "failed"
        try:
            with interrupts.released():
                machine = probe.probe(nvml=doors.nvml, processes=doors.processes, host=doors.host, list_pythons=False)
                bundle.value("machine", machine)
                with guard_here(settings=settings, recorder=bundle, argv=argv):
                    if part.seed is not None:
                        sow(part.seed)
                    yield part
            end = "completed"
        except KeyboardInterrupt:
            end = "interrupted"
            raise
        except Exception as error:
            failure = record_failure(bundle, error)
            raise
        finally:
            sealed = bundle.close(end=end)
            part.report = RunReport(
                verdict=sealed.verdict,
                bundle=str(sealed.folder),
                status=0 if end == "completed" else 1,
                stopped=None,
                interrupted=end == "interrupted",
                failure=failure,
            )


def _negative_control(bundle: Bundle, command: tuple[str, ...], settings: GuardSettings, *, seconds: float) -> None:
    """The same command with CUDA hidden. Its output goes into the bundle only; it is ended once it has shown enough."""
    hidden = replace(
        settings,
        role="negative-control",
        trace_steps=None,
        environment={**settings.environment, "CUDA_VISIBLE_DEVICES": "-1"},
        log_path=bundle.folder / _CONTROL_LOG,
        fail_fast_s=_CONTROL_S,
        timeout_s=max(_CONTROL_S, 2 * seconds),
    )
    if bundle.guarded(command, settings=hidden).interrupted:
        raise KeyboardInterrupt


def _how(result: GuardResult) -> str:
    how = result.stopped_reason or f"it ended with {result.signal or f'exit status {result.status}'}"
    return f"The command did not complete: {how}."


def _end(result: GuardResult) -> str:
    if result.interrupted:
        return "interrupted"
    return "completed" if result.status == 0 and result.stopped is None else "failed"
