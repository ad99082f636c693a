"""Which PyTorch build for a machine: pure, from a machine and the catalog to a decision with every reason."""

from __future__ import annotations

from collections.abc import Iterable

from ongpu.catalog import Catalog
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.build import Alternative, Axis, AxisVerdict, Decision, DecisionKind, SplitPart
from ongpu.domain.machine import Machine, Modules
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan.blocked import Block, find_block
from ongpu.plan.build_axes import Candidate, judge
from ongpu.plan.command import install_command, pair
from ongpu.plan.facts import Facts, gather
from ongpu.plan.machine_axes import machine_axes
from ongpu.plan.mixed import split
from ongpu.plan.request import Request, Requirement, check_request, index_url, version
from ongpu.plan.source import recipe

# What a build may leave unknown and still be chosen: facts of the machine, which are then named as assumptions.
_MACHINE_FACTS = frozenset({"driver", "glibc"})
_SHOWN = 6


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


def choose(judged: Iterable[Candidate], *, ignoring: frozenset[str] = frozenset()) -> Candidate | None:
    """The best build that no axis refuses (those of ``ignoring`` apart).

    Native before compiled by the driver, stable before nightly, newest first, then PyPI's own variant, then the
    higher CUDA.
    """
    eligible = [one for one in judged if one.refusals() <= ignoring and one.unknowns() <= _MACHINE_FACTS | ignoring]
    return max(eligible, key=_rank, default=None)


def _rank(one: Candidate) -> tuple[bool, bool, object, bool, int]:
    build = one.build
    return (
        one.native,
        build.channel == "stable",
        version(build.torch),
        build.pypi_default,
        int(build.cuda_tag.removeprefix("cu")),
    )


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
    lost = _lost(best, judged, facts)
    parts = _parts(facts, catalog=catalog, request=request) if lost else ()
    newer = [one for one in parts if version(one.torch) > version(build.torch)]
    lost += tuple(f"alone, with CUDA_VISIBLE_DEVICES={one.mask}: {one.label}" for one in newer)
    return Decision(
        decision=DecisionKind.PREBUILT,
        torch=build.torch,
        cuda_tag=build.cuda_tag,
        index_url=index_url(build),
        command=command,
        fit=best.fits,
        axes=(*of_machine, *best.axes),
        cause=None,
        alternatives=_passed_over(best, judged),
        assumptions=_assumptions(best, facts),
        lost=lost,
        next_step=f"Type, in a fresh environment: {' '.join(command)}",
        simulated=facts.machine.simulated,
        python=facts.python,
        companions=companions,
        split=parts if newer else (),
        catalog_date=catalog.date,
    )


def _passed_over(best: Candidate, judged: list[Candidate]) -> tuple[Alternative, ...]:
    """Newer releases and why not, then what else fits."""
    found: list[Alternative] = []
    here = [one for one in judged if one.build is not best.build]
    newer = [one for one in here if version(one.build.torch) > version(best.build.torch) and one.refusals()]
    newer = [one for one in newer if "channel" not in one.refusals()]
    releases = sorted({one.build.torch for one in newer}, key=version, reverse=True)
    for torch in releases[:_SHOWN]:
        group = [one for one in newer if one.build.torch == torch]
        found.append(Alternative(label=torch, reason=_why_not(group)))
    fitting = [one for one in here if not one.refusals() and one.unknowns() <= _MACHINE_FACTS]
    for one in sorted(fitting, key=_rank, reverse=True)[:_SHOWN]:
        reason = "fits as well" if version(one.build.torch) == version(best.build.torch) else "fits; older"
        found.append(Alternative(label=one.build.label, reason=reason))
    unknown = [one for one in here if not one.refusals() and not one.unknowns() <= _MACHINE_FACTS]
    for one in sorted(unknown, key=_rank, reverse=True)[:2]:
        axis = next(a for a in one.axes if a.verdict is AxisVerdict.UNKNOWN and a.axis not in _MACHINE_FACTS)
        found.append(Alternative(label=one.build.label, reason=f"unknown: {axis.reason}"))
    return tuple(found)


def _why_not(group: list[Candidate]) -> str:
    """The first refusal of each build of a release, builds of one reason together."""
    tags: dict[str, list[str]] = {}
    for one in group:
        reason = next((axis.reason for axis in one.axes if axis.verdict is AxisVerdict.REFUSES), None)
        if reason is not None:
            tags.setdefault(reason, []).append(one.build.cuda_tag)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in tags.items())


def _lost(best: Candidate, judged: list[Candidate], facts: Facts) -> tuple[str, ...]:
    found: list[str] = []
    stable = [one for one in judged if one.build.channel == "stable"]
    newest = max((one.build.torch for one in stable), key=version)
    if best.build.channel == "stable" and version(newest) > version(best.build.torch):
        group = [one for one in stable if one.build.torch == newest]
        found.append(
            f"torch {newest} is the newest release and {best.build.torch} the newest fitting: what came since is lost "
            f"({_why_not(group)})"
        )
        newest_cuda12 = max(
            (one.build.torch for one in stable if one.build.cuda_tag.startswith("cu12")), key=version, default=None
        )
        if best.build.cuda_tag.startswith("cu12") and best.build.torch == newest_cuda12:
            found.append(
                f"{newest_cuda12} is the last release with CUDA 12 builds: no newer torch is to be expected here"
            )
    if facts.capabilities and facts.capabilities[-1].major < 7:
        found.append(
            f"torch.compile is not available on compute capability {facts.capabilities[-1]}: PyTorch's Triton backend "
            "asks for 7.0 (GPUTooOldForTriton in torch/_inductor/scheduler.py, read in 2.14.1)"
        )
    return tuple(found)


def _assumptions(best: Candidate, facts: Facts) -> tuple[str, ...]:
    """Every fact that was not known and was taken for granted."""
    found: list[str] = []
    found.extend(f"{one.what}: {one.reason}" for one in facts.machine.unavailable if facts.machine.simulated)
    if facts.driver is None and facts.driver_cuda is None:
        found.append(f"driver: not known; assumed new enough ({best.axis('driver').reason})")
    elif facts.driver_text is not None and "." not in facts.driver_text:
        found.append(f"driver: branch {facts.driver_text} without a release; assumed its newest")
    if not facts.python_known:
        found.append(f"python: not known; assumed {facts.python}")
    if facts.machine.os == "linux" and facts.glibc is None:
        found.append(f"glibc: not known; assumed new enough ({best.axis('glibc').reason})")
    flavors = {one.generation.modules for one in facts.devices if one.generation} & {"open", "proprietary"}
    linux = facts.machine.os == "linux" and not facts.machine.wsl
    if linux and flavors and facts.machine.driver.modules is Modules.UNKNOWN:
        found.append(f"kernel modules: flavor not known; assumed {' and '.join(sorted(flavors))}, which the GPU needs")
    return tuple(found)


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
            assumptions=_assumptions(block.closest, facts),
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
        assumptions=_assumptions(closest, facts) if closest else (),
        lost=(),
        next_step=next_step,
        simulated=facts.machine.simulated,
        python=facts.python,
        split=parts,
        catalog_date=catalog.date,
    )
