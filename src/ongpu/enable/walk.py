"""The whole road, from the request to the sealed bundle.

probe -> plan -> install -> scan -> smoke -> train -> compare -> evidence. A rehearsal walks the same road for a
described machine: what it cannot do for real it says, and its verdict is unknown by construction.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from ongpu import __version__, environment, plan
from ongpu import install as installer
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
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
from ongpu.errors import BlockedError, InterruptedRunError, OngpuError
from ongpu.evidence.place import free_sibling
from ongpu.plan.request import check_request
from ongpu.proof.answers import check_command, check_expected_gpu, check_seeded, check_trace_steps, next_after
from ongpu.proof.blocked import record_block
from ongpu.proof.bundle import Bundle, Sealed, Start
from ongpu.proof.doors import Doors, redactor_for
from ongpu.stage import staged_training

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
    start = Start(
        profile="enable",
        argv=argv,
        expect_gpu=request.expect_gpu,
        simulated=described is not None,
        compare_cpu=not request.command and described is None,
        tool_version=__version__,
        nonce=request.nonce,
    )
    redactor = redactor_for(doors, pseudonymous=request.pseudonymous, target=adopted)
    # Interrupts act while the road is walked, and wait while the bundle is made and closed.
    with doors.interrupts as interrupts, interrupts.held():
        folder = _bundle_folder(request, doors)
        bundle = Bundle.open(folder, start=start, doors=doors, redactor=redactor, signer=request.signer)
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
            try:
                with interrupts.released():
                    _walk(context, road)
            except BlockedError as error:
                blocked = error
                record_block(road.bundle, error, phase=road.current, done=[phase.name for phase in road.phases][:-1])
        except (KeyboardInterrupt, InterruptedRunError):
            raise _interrupted(road, _seal(road, doors, end="interrupted")) from None
        except BaseException:
            # A defect of ours as well: what was observed until then stays, sealed as failed where that can be done.
            with contextlib.suppress(OngpuError):  # the first error is the one to tell
                _seal(road, doors, end="failed")
            raise
        sealed = _seal(road, doors, end="blocked" if blocked else "completed")
        if interrupts.waiting:
            raise InterruptedRunError(
                "Interrupted in phase evidence.",
                next_step=f"The evidence was complete and is sealed: ongpu evidence check {sealed.folder}",
            )
    return _report(road, sealed, blocked)


def _interrupted(road: Road, sealed: Sealed) -> InterruptedRunError:
    ended = [phase.name for phase in road.phases if phase.outcome is PhaseOutcome.INTERRUPTED]
    return InterruptedRunError(
        f"Interrupted in phase {ended[-1]}." if ended else "Interrupted between two phases.",
        next_step=f"What was observed is sealed in {sealed.folder}; run it again for a new bundle.",
    )


def _check(request: EnableRequest, doors: Doors, *, rehearsed: bool) -> Path | None:
    """What can be wrong with the request, before anything is made. Returns the adopted interpreter."""
    check_request(plan.Request(torch_spec=request.torch_spec, channel=request.channel))
    check_expected_gpu(request.expect_gpu)
    check_trace_steps(request.trace_steps)
    if request.command:
        check_seeded(request.command, request.nonce)
    if request.project is not None:
        installer.read_project(doors.cwd / request.project, extra=request.extra)
    variables = doors.host.environment()
    adopted = None
    if request.python is not None or rehearsed:
        adopted = environment.choose_python(request.python, cwd=doors.cwd, variables=variables)
    # What a fresh environment will bring is not known yet: there, a bare name is looked up when it is run.
    name = request.command[0] if request.command else None
    if name is not None and (adopted is not None or not name.strip() or Path(name).name != name):
        path = os.pathsep.join((*([str(adopted.parent)] if adopted else ()), variables.get("PATH", os.defpath)))
        check_command(request.command, path=path, example="ongpu enable -- python train.py")
    return adopted


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
    command = train_command(
        request.command, python=python, cwd=doors.cwd, rehearsed=context.rehearsed, nonce=request.nonce
    )
    with contextlib.ExitStack() as stack:
        variables = _train_variables(context, command, plain_variables, stack)
        if not context.rehearsed and device and device.uuid and len(machine.devices) > 1:
            # One GPU is enabled, and the one that was smoked: never another that CUDA happens to count first.
            variables.setdefault("CUDA_VISIBLE_DEVICES", device.uuid)
        road.walk("train", lambda: train_phase(context, command, variables, road.watch))
        road.walk("compare", lambda: compare_phase(context, command, variables, road.watch))


def _train_variables(
    context: Context, command: TrainCommand, base: dict[str, str], stack: contextlib.ExitStack
) -> dict[str, str]:
    if not command.staged:
        return base
    staged = stack.enter_context(staged_training())
    context.bundle.record("staged", {"what": "ongpu.training", "sha256": staged.sha256})
    return {**base, "PYTHONPATH": os.pathsep.join(filter(None, (str(staged.path), base.get("PYTHONPATH"))))}


def _seal(road: Road, doors: Doors, *, end: str) -> Sealed:
    road.watch.phase_began("evidence")
    began_s = doors.clock.mono_s()
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
        next_step=blocked.next_step if blocked else next_after(verdict, sealed.folder),
        bundle=str(sealed.folder),
        rehearsed=road.bundle.start.simulated,
    )


def _blocked_phase(road: Road) -> str:
    return next(phase.name for phase in road.phases if phase.outcome is PhaseOutcome.BLOCKED)
