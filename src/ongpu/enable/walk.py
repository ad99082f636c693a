"""The whole road, from the request to the sealed bundle.

probe -> plan -> install -> scan -> smoke -> train -> compare -> evidence. A rehearsal walks the same road for a
described machine: what it cannot do for real it says, and its verdict is unknown by construction.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ongpu import __version__, environment
from ongpu import install as installer
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause, Outcome
from ongpu.enable.command import TrainCommand, child_environment, is_milestone, train_command
from ongpu.enable.phases import (
    Context,
    choose_device,
    install_phase,
    plan_phase,
    probe_phase,
    scan_phase,
    smoke_phase,
)
from ongpu.enable.request import EnableReport, EnableRequest, Phase, PhaseOutcome, Watch
from ongpu.enable.road import Road
from ongpu.enable.training import compare_phase, train_phase
from ongpu.errors import BlockedError, InterruptedRunError
from ongpu.evidence.journal import free_sibling
from ongpu.proof import Bundle, Doors, Sealed, Start, redactor_for
from ongpu.stage import stage_training

_MILESTONE_BUNDLE = Path("submission_runs/m40_gpu_enablement")
_OTHER_BUNDLE = Path("ongpu_runs/enable")


def enable(
    request: EnableRequest, *, doors: Doors, watch: Watch, described: Machine | None, argv: tuple[str, ...]
) -> EnableReport:
    """Walk the road. Blocks, refutations and unknowns are answers; the report carries them.

    :param described: the machine to rehearse for; ``None`` reads this one.
    :param argv: the command line as typed, for the start commitment.
    :raises UsageError: something asked for cannot be meant; nothing was started.
    :raises WorkError: the evidence could not be written.
    :raises InterruptedRunError: the user interrupted; the bundle is sealed.
    """
    adopted = _check(request, doors, rehearsed=described is not None)
    ours = not request.command
    start = Start(
        profile="enable",
        argv=argv,
        expect_gpu=request.expect_gpu,
        simulated=described is not None,
        compare_cpu=ours and described is None,
        tool_version=__version__,
    )
    redactor = redactor_for(doors, pseudonymous=request.pseudonymous)
    bundle = Bundle.open(_bundle_folder(request, doors), start=start, doors=doors, redactor=redactor)
    context = Context(
        request=request,
        doors=doors,
        bundle=bundle,
        described=described,
        adopted=adopted,
        python_version=doors.host.platform().version,
    )
    road = Road(bundle=bundle, clock=doors.clock, watch=watch)
    blocked: BlockedError | None = None
    try:
        _walk(context, road)
        end = "completed"
    except BlockedError as error:
        blocked, end = error, "blocked"
        _record_block(road, error)
    except (KeyboardInterrupt, InterruptedRunError) as error:
        sealed = _seal(road, doors, end="interrupted")
        raise InterruptedRunError(
            f"Interrupted in phase {road.current}.",
            next_step=f"What was observed is sealed in {sealed.folder}; run it again for a new bundle.",
        ) from error
    except BaseException:
        # A defect of ours as well: what was observed until then stays, sealed as failed.
        _seal(road, doors, end="failed")
        raise
    sealed = _seal(road, doors, end=end)
    return _report(road, sealed, blocked)


def _check(request: EnableRequest, doors: Doors, *, rehearsed: bool) -> Path | None:
    """What can be wrong with the request, before anything is made. Returns the adopted interpreter."""
    if request.project is not None:
        installer.read_project(doors.cwd / request.project, extra=request.extra)
    variables = doors.host.environment()
    if request.python is not None or rehearsed:
        return environment.choose_python(request.python, cwd=doors.cwd, variables=variables)
    return None


def _bundle_folder(request: EnableRequest, doors: Doors) -> Path:
    if request.evidence is not None:
        return doors.cwd / request.evidence
    default = _MILESTONE_BUNDLE if is_milestone(doors.cwd) and not request.command else _OTHER_BUNDLE
    return free_sibling(doors.cwd / default)


def _walk(context: Context, road: Road) -> None:
    doors, request = context.doors, context.request
    machine = road.walk("probe", lambda: probe_phase(context))
    decision = road.walk("plan", lambda: plan_phase(context, machine))
    found = road.walk("install", lambda: install_phase(context, decision, road.watch.output))
    road.walk("scan", lambda: scan_phase(context, machine, found))
    device = choose_device(machine, request.expect_gpu)
    python, prefix = Path(found.python.path), Path(found.prefix)
    base = dict(doors.host.environment())
    plain_variables = child_environment(base, python=python, prefix=prefix, staged=None)
    road.walk("smoke", lambda: smoke_phase(context, found, device, plain_variables))
    command = train_command(request.command, python=python, cwd=doors.cwd, rehearsed=context.rehearsed)
    with tempfile.TemporaryDirectory(prefix="ongpu-enable-") as scratch:
        variables = _train_variables(context, command, plain_variables, Path(scratch))
        if not context.rehearsed and device and device.uuid and len(machine.devices) > 1:
            # One GPU is enabled, and the one that was smoked: never another that CUDA happens to count first.
            variables.setdefault("CUDA_VISIBLE_DEVICES", device.uuid)
        road.walk("train", lambda: train_phase(context, command, variables, road.watch))
        road.walk("compare", lambda: compare_phase(context, command, variables, road.watch, scratch=Path(scratch)))


def _train_variables(context: Context, command: TrainCommand, base: dict[str, str], scratch: Path) -> dict[str, str]:
    if not command.staged:
        return base
    staged = stage_training(scratch / "staged")
    context.bundle.record("staged", {"what": "ongpu.training", "sha256": staged.sha256})
    joined = base.get("PYTHONPATH")
    return {**base, "PYTHONPATH": f"{staged.path}:{joined}" if joined else str(staged.path)}


def _record_block(road: Road, error: BlockedError) -> None:
    done = [phase.name for phase in road.phases]
    body = {
        "phase": road.current,
        "cause": error.cause,
        "reason": error.message,
        "lines": list(error.lines),
        "next_step": error.next_step,
        "done": done[:-1],
    }
    road.bundle.record("blocked", body)
    lines = "\n".join(f"  | {line}" for line in error.lines)
    road.bundle.text(
        "blocked.txt",
        f"Blocked in phase: {road.current}\nCause: {error.cause}\nReason: {error.message}\n{lines}\n"
        f"Next: {error.next_step}\nNothing was retried, downgraded or moved to the CPU.\n",
    )


def _seal(road: Road, doors: Doors, *, end: str) -> Sealed:
    road.watch.phase_began("evidence")
    began_s = doors.clock.mono_s()
    road.bundle.text("env_info.txt", doors.pages.env_info(road.bundle.observations()))
    sealed = road.bundle.close(end=end)
    phase = Phase(
        name="evidence",
        outcome=PhaseOutcome.REHEARSED if road.bundle.start.simulated else PhaseOutcome.DONE,
        seconds=doors.clock.mono_s() - began_s,
        summary=f"sealed in {sealed.folder}",
    )
    road.phases.append(phase)
    road.watch.phase_ended(phase)
    return sealed


def _report(road: Road, sealed: Sealed, blocked: BlockedError | None) -> EnableReport:
    verdict = sealed.verdict
    cause = Cause(blocked.cause) if blocked else verdict.cause
    if blocked is not None:
        verdict = replace(verdict, cause=cause)
    return EnableReport(
        phases=tuple(road.phases),
        verdict=verdict,
        outcome=verdict.outcome,
        cause=cause,
        blocked_in=_blocked_phase(road) if blocked else None,
        reason=blocked.message if blocked else verdict.reason,
        lines=blocked.lines if blocked else (),
        next_step=blocked.next_step if blocked else _next_step(verdict.outcome, sealed, road),
        bundle=str(sealed.folder),
        rehearsed=road.bundle.start.simulated,
    )


def _blocked_phase(road: Road) -> str:
    return next(phase.name for phase in road.phases if phase.outcome is PhaseOutcome.BLOCKED)


def _next_step(outcome: Outcome, sealed: Sealed, road: Road) -> str:
    if road.bundle.start.simulated:
        return "Run `ongpu enable` on the machine with the GPU; a rehearsal proves nothing."
    match outcome:
        case Outcome.PROVEN:
            return f"Give the bundle to whoever must believe it; they type: ongpu evidence check {sealed.folder}"
        case Outcome.REFUTED:
            return "Read the refuted claims above: each names what was seen instead."
        case Outcome.UNKNOWN:
            return "Read the unknown claims above: each names what could not be observed, and why."
