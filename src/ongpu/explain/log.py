"""A diagnosis with the facts of the log put to the planner: which of them are at odds, and which build would fit.

The log is another machine's: nothing of the machine this runs on is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ongpu.catalog import Catalog, load
from ongpu.diagnose import Diagnosis, Facts, diagnose
from ongpu.domain.build import Axis, AxisVerdict, Decision
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan import Request, described, plan

# Where another build can be the remedy. Elsewhere the one that would fit is no answer, and is not shown.
_ABOUT_THE_BUILD: Final = frozenset(
    {Cause.WHEEL_NO_ARCH, Cause.CPU_ONLY_TORCH, Cause.DRIVER_TOO_OLD, Cause.DRIVER_TOO_NEW}
)
_BUILD: Final = re.compile(r"(\d+\.\d+(?:\.\d+)?)(?:\+(cu\d{3}|cpu))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a log says, and what the planner says of its facts.

    ``named`` is the decision for the build the log names, ``at_odds`` its axes that refuse; ``advised`` the
    decision for the same machine with the build left open. Each is ``None`` (or empty) where the log does not
    name enough, and ``unasked`` says what was missing.
    """

    diagnosis: Diagnosis
    named: Decision | None
    at_odds: tuple[Axis, ...]
    advised: Decision | None
    unasked: tuple[str, ...]

    @property
    def remedy(self) -> Decision | None:
        """The advised decision, where the build is what is wrong; ``None`` where another one mends nothing."""
        return self.advised if self.at_odds or self.diagnosis.cause in _ABOUT_THE_BUILD else None


def explain(
    data: bytes | Iterable[bytes], *, platform: str | None = None, catalog: Catalog | None = None
) -> Explanation:
    """Diagnose a log and judge the machine and the build that it names. Pure."""
    catalog = catalog or load()
    found = diagnose(data, platform=platform)
    unasked: list[str] = []
    machine = _machine(found.facts, catalog, unasked)
    if machine is None:
        return Explanation(diagnosis=found, named=None, at_odds=(), advised=None, unasked=tuple(unasked))
    spec = _spec(found.facts, unasked)
    named = _plan(machine, catalog, Request(torch_spec=spec), unasked) if spec else None
    at_odds = tuple(one for one in named.axes if one.verdict is AxisVerdict.REFUSES) if named else ()
    return Explanation(
        diagnosis=found,
        named=named,
        at_odds=at_odds,
        advised=_plan(machine, catalog, Request(), unasked),
        unasked=tuple(unasked),
    )


def _machine(facts: Facts, catalog: Catalog, unasked: list[str]) -> Machine | None:
    if not (facts.gpus or facts.compute_capabilities):
        unasked.append("the log names no GPU")
        return None
    system = "windows" if facts.platform == "windows" else "linux"
    driver = facts.driver_versions[-1] if facts.driver_versions else None
    if driver is None:
        unasked.append("the log names no driver version; any was assumed")
    python = facts.python_versions[-1] if facts.python_versions else None
    capabilities = () if facts.gpus else facts.compute_capabilities
    for gpus, given in ((facts.gpus, capabilities), ((), facts.compute_capabilities)):
        if not (gpus or given):
            continue
        try:
            return described(
                catalog=catalog,
                gpus=gpus,
                compute_capabilities=given,
                driver=driver,
                os=system,
                python=python,
                wsl=facts.platform == "wsl",
            )
        except UsageError as error:
            unasked.append(error.message)
    return None


def _spec(facts: Facts, unasked: list[str]) -> str | None:
    """The build the log names as a requirement: ``==2.9.1+cu128``; ``None`` for none and for a CPU build."""
    build = _BUILD.match(facts.torch_versions[-1]) if facts.torch_versions else None
    if build is None:
        unasked.append("the log names no torch version")
        return None
    if build[2] == "cpu":
        unasked.append(f"torch {build[0]} is a CPU build: there is nothing to judge")
        return None
    tag = build[2] or _tag(facts)
    return f"=={build[1]}+{tag}" if tag else f"=={build[1]}"


def _tag(facts: Facts) -> str | None:
    if len(facts.cuda_runtime_versions) != 1:
        return None
    return f"cu{facts.cuda_runtime_versions[0].replace('.', '')}"


def _plan(machine: Machine, catalog: Catalog, request: Request, unasked: list[str]) -> Decision | None:
    try:
        return plan(machine, catalog=catalog, request=request)
    except UsageError as error:
        unasked.append(error.message)
        return None
