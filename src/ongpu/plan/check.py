"""Judging a command that somebody was given: what it would install, whether that runs here, what to type instead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ongpu.catalog import Catalog
from ongpu.domain.arch import ComputeCapability, Fit, RuntimeVersion, best_fit
from ongpu.domain.build import Axis, AxisVerdict, Decision, DecisionKind, TorchBuild
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan.advice import read_command
from ongpu.plan.build_axes import judge
from ongpu.plan.choose import plan
from ongpu.plan.facts import Facts, gather
from ongpu.plan.machine_axes import machine_axes
from ongpu.plan.pick import MACHINE_FACTS
from ongpu.plan.request import Request, version
from ongpu.plan.sources import NO_RELEASE, Pick, what_it_installs


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReport:
    """What a command would do on a machine.

    ``works`` is ``None`` where it cannot be told. ``build`` is what it would install, ``2.14.1+cu126``.
    ``instead`` is what this machine should have; where the command is right it is that very build or a newer one.
    """

    command: str
    works: bool | None
    build: str | None
    reasons: tuple[str, ...]
    axes: tuple[Axis, ...]
    cause: Cause | None
    instead: Decision
    next_step: str


def judge_command(command: str, machine: Machine, *, catalog: Catalog, request: Request | None = None) -> CommandReport:
    """Judge an install command for a machine; it is read, never run.

    :raises UsageError: for a text that is no install command, or that does not name torch.
    """
    advice = read_command(command)
    if advice.torch is None:
        raise UsageError(
            f"{command!r} does not name torch.",
            next_step="Give the command that installs torch, or use 'ongpu plan' alone.",
        )
    asked = dataclasses.replace(request or Request(), companions=advice.companions, torch_spec=None)
    instead = plan(machine, catalog=catalog, request=asked)
    facts = gather(machine, catalog=catalog, request=asked)
    of_machine = machine_axes(facts, catalog=catalog)
    pick = what_it_installs(advice, facts, catalog=catalog)
    axes = of_machine
    reasons, cause, works = list(pick.reasons), pick.cause, None if pick.unknown else pick.build is not None
    if pick.build is not None and pick.build.cuda_tag != "cpu" and len(of_machine) > 2:
        candidate = judge(pick.build, facts, catalog=catalog, request=Request(channel="any"), requirement=None)
        axes = (*of_machine, *candidate.axes)
        if candidate.unknowns() - MACHINE_FACTS and works:
            works = None
    for axis in axes:
        if axis.verdict is AxisVerdict.REFUSES:
            works, cause = False, cause or axis.cause
            reasons.append(axis.reason)
        elif axis.verdict is AxisVerdict.UNKNOWN and works is None:
            reasons.append(axis.reason)
    if pick.build is not None and pick.build.cuda_tag == "cpu":
        works, cause = False, Cause.CPU_ONLY_TORCH
    if works:
        reasons.extend(axis.reason for axis in axes if axis.axis in {"coverage", "driver"})
    elif pick.build is not None:
        reasons.extend(_never(pick.build, facts, catalog=catalog))
    return CommandReport(
        command=command,
        works=works,
        build=pick.build.label if pick.build and pick.build.torch != NO_RELEASE else None,
        reasons=tuple(dict.fromkeys(reasons)),
        axes=axes,
        cause=None if works else cause,
        instead=instead,
        next_step=_next_step(works, pick, instead),
    )


def _next_step(works: bool | None, pick: Pick, instead: Decision) -> str:  # noqa: FBT001 - three-valued, private
    better = " ".join(instead.command)
    if instead.decision is not DecisionKind.PREBUILT:
        return instead.next_step
    if not works:
        return f"Type instead: {better}"
    if pick.build is not None and version(pick.build.torch) < version(instead.torch or "0"):
        return f"It works; newer for this machine: {better}"
    return "It works as it is."


def _never(build: TorchBuild | None, facts: Facts, *, catalog: Catalog) -> list[str]:
    """Tags that no release can serve a GPU with: ``cu124`` for 12.0 is not a bad version, it is impossible."""
    runtime = build.runtime if build is not None else None
    if build is None or runtime is None:
        return []
    found = []
    for one in facts.capabilities:
        row = catalog.generation(one)
        if row is None or _compiled_by_driver(build, one, catalog=catalog):
            continue
        if row.first_toolkit is not None and _key(runtime) < _key(row.first_toolkit):
            found.append(
                f"no {build.cuda_tag} build of any release can serve compute capability {one}: CUDA {runtime} is older "
                f"than {row.first_toolkit}, the first toolkit with code for it"
            )
        elif row.last_toolkit is not None and _key(runtime) > _key(row.last_toolkit):
            found.append(
                f"no {build.cuda_tag} build of any release can serve compute capability {one}: CUDA {row.last_toolkit} "
                "was the last toolkit with code for it"
            )
    return found


def _compiled_by_driver(build: TorchBuild, capability: ComputeCapability, *, catalog: Catalog) -> bool:
    """Whether some build of the tag has PTX that the driver can compile for the device."""
    rows = [one.targets for one in catalog.builds if (one.cuda_tag, one.os) == (build.cuda_tag, build.os)]
    rows += [one.targets for one in catalog.retired if one.cuda_tag == build.cuda_tag]
    return any(best_fit(targets, capability) is not Fit.NONE for targets in rows)


def _key(one: RuntimeVersion) -> tuple[int, int]:
    return (one.major, one.minor)
