"""Why no build fits, and what the smallest change is that makes one fit."""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.domain.build import AxisVerdict
from ongpu.domain.verdict import Cause
from ongpu.plan.build_axes import Candidate
from ongpu.plan.facts import Facts
from ongpu.plan.pick import MACHINE_FACTS, choose
from ongpu.plan.request import Requirement, nearest_python, version

_HARD = frozenset({"coverage", "driver"})
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Why nothing fits.

    ``closest`` is the build that came nearest, whose axes are shown; ``openings`` are single changes that would
    make a build fit; ``refused`` the newest builds with their reasons. ``source_possible``: no published build
    of the platform has code for the GPUs, so that building from source is what is left.
    """

    cause: Cause
    closest: Candidate
    next_step: str
    openings: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    source_possible: bool


def find_block(
    judged: list[Candidate],
    facts: Facts,
    *,
    requirement: Requirement | None,
) -> Block:
    """Name the cause. A change the user can make at once (another Python) names it before the hardware does."""
    openings = _openings(judged, facts)
    wished = [one for one in judged if not one.refusals() - _HARD]
    pool = wished or judged
    closest = max(pool, key=_nearness)
    changes = {axis for axis, _, _ in openings}
    uncovered = all("coverage" in one.refusals() for one in judged if one.build.targets)
    step = openings[0][2] if openings else f"{closest.axis(_first_refusal(closest)).reason}."
    return Block(
        # Where no build of the platform has code, no other change comes near: that is the cause.
        cause=Cause.WHEEL_NO_ARCH if uncovered and not changes else _cause(wished, changes),
        closest=closest,
        next_step=f"{step[0].upper()}{step[1:]}",
        openings=tuple((label, step) for _, label, step in openings),
        refused=_refused(pool),
        source_possible=uncovered and requirement is None and not changes,
    )


def _nearness(one: Candidate) -> tuple[int, int, object]:
    """How near a build came: what nobody knows of it counts as a refusal, and as worse than one."""
    unknown = len(one.unknowns() - MACHINE_FACTS)
    return (-len(one.refusals()) - unknown, -unknown, version(one.build.torch))


def _first_refusal(one: Candidate) -> str:
    bad = [axis.axis for axis in one.axes if axis.verdict in {AxisVerdict.REFUSES, AxisVerdict.UNKNOWN}]
    return bad[0]


def _cause(wished: list[Candidate], changes: set[str]) -> Cause:
    if changes & {"python", "glibc"}:
        return Cause.PYTHON_ENV
    if not wished:
        return Cause.WHEEL_NO_ARCH if changes & {"requirement", "channel"} else Cause.PYTHON_ENV
    covered = [one for one in wished if "coverage" not in one.refusals()]
    if any("driver" not in one.refusals() for one in covered):
        return Cause.UNDETERMINED
    if covered:
        known = [one for one in covered if not one.unknowns() - MACHINE_FACTS]
        return Cause.DRIVER_TOO_OLD if known else Cause.UNDETERMINED
    return Cause.WHEEL_NO_ARCH


def _openings(judged: list[Candidate], facts: Facts) -> list[tuple[str, str, str]]:
    """Each single axis whose change makes a build fit: axis, the build, what to do. The easiest change first."""
    found = []
    for axis in ("python", "glibc", "driver", "requirement", "channel"):
        best = choose(judged, ignoring=frozenset({axis}))
        if best is not None:
            found.append((axis, best.build.label, _change(axis, best, facts)))
    return found


def _change(axis: str, best: Candidate, facts: Facts) -> str:
    label = best.build.label
    match axis:
        case "python":
            python = nearest_python(facts.python, best.build.pythons)
            return f"use Python {python} instead of {facts.python}: {label} then fits"
        case "glibc":
            return f"use a newer system or a container ({best.axis('glibc').reason}): {label} then fits"
        case "driver":
            return f"update the driver ({best.axis('driver').reason}): {label} then fits"
        case "requirement":
            return f"drop the requirement on torch: {label} fits"
        case _:
            return f"allow nightly builds with --channel any: only {label} fits"


def _refused(pool: list[Candidate]) -> tuple[tuple[str, str], ...]:
    ordered = sorted(pool, key=lambda one: (version(one.build.torch), one.build.cuda_tag), reverse=True)
    return tuple(
        (one.build.label, one.axis(_first_refusal(one)).reason)
        for one in ordered[:_SHOWN]
        if one.refusals() or one.unknowns()
    )
