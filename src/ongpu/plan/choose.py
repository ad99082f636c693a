"""Which PyTorch build for a machine: pure, from a machine and the catalog to a decision with every reason."""

from __future__ import annotations

from ongpu.catalog import Catalog
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.build import Alternative, Axis, AxisVerdict, Decision, DecisionKind, SplitPart
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan.account import assumptions, lost, passed_over
from ongpu.plan.blocked import Block, find_block
from ongpu.plan.build_axes import Candidate, judge
from ongpu.plan.command import install_command, pair
from ongpu.plan.facts import Facts, gather
from ongpu.plan.machine_axes import machine_axes
from ongpu.plan.mixed import split
from ongpu.plan.pick import choose
from ongpu.plan.request import Request, Requirement, check_request, index_url, version
from ongpu.plan.source import recipe


def plan(machine: Machine, *, catalog: Catalog, request: Request) -> Decision:
    """Choose a build for a machine.

    :raises UsageError: for a request that cannot be read, or that no release in the catalog satisfies.
    """
    requirement = check_request(request)
    if requirement is not None:
        _satisfiable(requirement, catalog=catalog)
    facts = gather(machine, catalog=catalog, request=request)
    of_machine = machine_axes(facts, catalog=catalog)
    if any(one.verdict is AxisVerdict.REFUSES for one in of_machine):
        return _machine_blocked(facts, of_machine, catalog=catalog, request=request)
    judged = [
        judge(one, facts, catalog=catalog, request=request, requirement=requirement)
        for one in catalog.builds
        if one.cuda_tag != "cpu" and (one.os, one.arch) == (machine.os, machine.arch)
    ]
    best = choose(judged)
    if best is not None:
        return _prebuilt(best, judged, facts, of_machine, catalog=catalog, request=request)
    block = find_block(judged, facts, requirement=requirement)
    return _blocked(block, facts, of_machine, catalog=catalog, request=request)


def _satisfiable(requirement: Requirement, *, catalog: Catalog) -> None:
    builds = [one for one in catalog.builds if one.cuda_tag != "cpu"]
    if any(requirement.allows(one) for one in builds):
        return
    newest = max((one for one in builds if one.channel == "stable"), key=lambda one: version(one.torch))
    released = [one for one in builds if requirement.allows_release(one.torch)]
    if released:
        tags = ", ".join(dict.fromkeys(one.cuda_tag for one in released))
        raise UsageError(
            f"No PyTorch build is {requirement.text!r}: that release has {tags}.",
            next_step="Ask for the version without the CUDA tag; the tag is chosen for the GPU.",
        )
    raise UsageError(
        f"No PyTorch release in the catalog of {catalog.date} is {requirement.text!r}.",
        next_step=f"The newest it knows is {newest.torch}; check the bounds, or run 'ongpu catalog update'.",
    )


def _prebuilt(
    best: Candidate,
    judged: list[Candidate],
    facts: Facts,
    of_machine: tuple[Axis, ...],
    *,
    catalog: Catalog,
    request: Request,
) -> Decision:
    build = best.build
    companions = pair(build, facts, catalog=catalog)
    wanted = tuple(one for one in companions if one.name in request.companions)
    command = install_command(build, companions=wanted)
    costs = lost(best, judged, facts)
    parts = _parts(facts, catalog=catalog, request=request) if costs else ()
    newer = [one for one in parts if version(one.torch) > version(build.torch)]
    costs += tuple(f"alone, with CUDA_VISIBLE_DEVICES={one.mask}: {one.label}" for one in newer)
    return Decision(
        decision=DecisionKind.PREBUILT,
        torch=build.torch,
        cuda_tag=build.cuda_tag,
        index_url=index_url(build),
        command=command,
        fit=best.fits,
        axes=(*of_machine, *best.axes),
        cause=None,
        alternatives=passed_over(best, judged),
        assumptions=assumptions(best, facts),
        lost=costs,
        next_step=f"Type, in a fresh environment: {' '.join(command)}",
        simulated=facts.machine.simulated,
        python=facts.python,
        companions=companions,
        split=parts if newer else (),
        catalog_date=catalog.date,
    )


def _machine_blocked(facts: Facts, of_machine: tuple[Axis, ...], *, catalog: Catalog, request: Request) -> Decision:
    worst = next(one for one in of_machine if one.verdict is AxisVerdict.REFUSES)
    parts = _parts(facts, catalog=catalog, request=request) if worst.axis == "generation" else ()
    return _refuse(
        facts,
        of_machine,
        cause=worst.cause or Cause.UNDETERMINED,
        next_step=_machine_step(worst, facts, parts=parts),
        catalog=catalog,
        parts=parts,
    )


def _machine_step(worst: Axis, facts: Facts, *, parts: tuple[SplitPart, ...]) -> str:
    reason = f"{worst.reason[0].upper()}{worst.reason[1:]}."
    if parts:
        shown = "; ".join(f"CUDA_VISIBLE_DEVICES={one.mask} for {one.label}" for one in parts)
        return f"{reason} A part of the machine can be used: {shown}."
    if worst.axis == "device" and not facts.devices:
        found = diagnose_blocked(facts.machine)
        step = found.next_step if found else "Look whether nvidia-smi lists a GPU."
        return f"{reason} {step} To plan for another machine, give --gpu."
    modules = {one.generation.modules for one in facts.devices if one.generation}
    if worst.axis == "modules" and {"open", "proprietary"} <= modules:
        alone = " or ".join(
            f"the {flavor} modules for {' and '.join(dict.fromkeys(one.name for one in members))}"
            for flavor in ("open", "proprietary")
            if (members := [one for one in facts.devices if one.generation and one.generation.modules == flavor])
        )
        return f"{reason} Install {alone}, and leave the other unused or move it to another machine."
    match worst.cause:
        case Cause.DRIVER_TOO_OLD:
            return f"{reason} Update the driver."
        case Cause.DRIVER_TOO_NEW:
            last = min((one.generation.last_branch or 10_000 for one in facts.devices if one.generation), default=0)
            return f"{reason} Install a driver of branch {last} for the old GPU, or take it out of the machine."
        case Cause.UNDETERMINED:
            return f"{reason} Give it with --compute-capability."
        case Cause.NO_GPU_VISIBLE:
            return f"{reason} To plan for another machine, give --gpu."
        case _:
            return reason


def _parts(facts: Facts, *, catalog: Catalog, request: Request) -> tuple[SplitPart, ...]:
    return split(facts, lambda machine: plan(machine, catalog=catalog, request=request))


def _blocked(
    block: Block,
    facts: Facts,
    of_machine: tuple[Axis, ...],
    *,
    catalog: Catalog,
    request: Request,
) -> Decision:
    parts = _parts(facts, catalog=catalog, request=request) if len(facts.capabilities) > 1 else ()
    alternatives = tuple(Alternative(label=label, reason=reason) for label, reason in (*block.openings, *block.refused))
    if block.source_possible and not parts and (lines := recipe(facts, catalog=catalog)):
        return Decision(
            decision=DecisionKind.SOURCE,
            torch=None,
            cuda_tag=None,
            index_url=None,
            command=(),
            fit=block.closest.fits,
            axes=(*of_machine, *block.closest.axes),
            cause=block.cause,
            alternatives=alternatives,
            assumptions=assumptions(block.closest, facts),
            lost=(
                "a build from source takes hours, is tested by nobody else, and has to be repeated for each release",
            ),
            next_step="No published build has code for this GPU: write the recipe to a file and build it from source.",
            simulated=facts.machine.simulated,
            python=facts.python,
            recipe=lines,
            catalog_date=catalog.date,
        )
    step = block.next_step
    if parts:
        shown = "; ".join(f"CUDA_VISIBLE_DEVICES={one.mask} with {' '.join(one.command)}" for one in parts)
        step = f"No single build serves all of these GPUs. Make one environment for each part: {shown}."
    elif len(facts.capabilities) > 1:
        step = f"{step} No split of the GPUs over environments helps either."
    return _refuse(
        facts,
        (*of_machine, *block.closest.axes),
        cause=block.cause,
        next_step=step,
        catalog=catalog,
        closest=block.closest,
        alternatives=alternatives,
        parts=parts,
    )


def _refuse(
    facts: Facts,
    axes: tuple[Axis, ...],
    *,
    cause: Cause,
    next_step: str,
    catalog: Catalog,
    closest: Candidate | None = None,
    alternatives: tuple[Alternative, ...] = (),
    parts: tuple[SplitPart, ...] = (),
) -> Decision:
    return Decision(
        decision=DecisionKind.BLOCKED,
        torch=None,
        cuda_tag=None,
        index_url=None,
        command=(),
        fit=closest.fits if closest else (),
        axes=axes,
        cause=cause,
        alternatives=alternatives,
        assumptions=assumptions(closest, facts) if closest else (),
        lost=(),
        next_step=next_step,
        simulated=facts.machine.simulated,
        python=facts.python,
        split=parts,
        catalog_date=catalog.date,
    )
