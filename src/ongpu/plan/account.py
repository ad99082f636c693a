"""The account of a choice: what was passed over, what it costs, what had to be assumed."""

from __future__ import annotations

from ongpu.domain.build import Alternative, AxisVerdict
from ongpu.domain.machine import Modules
from ongpu.plan.build_axes import Candidate
from ongpu.plan.facts import Facts
from ongpu.plan.pick import MACHINE_FACTS, rank
from ongpu.plan.request import version

_SHOWN = 6


def passed_over(best: Candidate, judged: list[Candidate]) -> tuple[Alternative, ...]:
    """Newer releases and why not, then what else fits."""
    found: list[Alternative] = []
    here = [one for one in judged if one.build is not best.build]
    newer = [one for one in here if version(one.build.torch) > version(best.build.torch) and one.refusals()]
    newer = [one for one in newer if "channel" not in one.refusals()]
    releases = sorted({one.build.torch for one in newer}, key=version, reverse=True)
    for torch in releases[:_SHOWN]:
        group = [one for one in newer if one.build.torch == torch]
        found.append(Alternative(label=torch, reason=_why_not(group)))
    fitting = [one for one in here if not one.refusals() and one.unknowns() <= MACHINE_FACTS]
    for one in sorted(fitting, key=rank, reverse=True)[:_SHOWN]:
        reason = "fits as well" if version(one.build.torch) == version(best.build.torch) else "fits; older"
        found.append(Alternative(label=one.build.label, reason=reason))
    unknown = [one for one in here if not one.refusals() and not one.unknowns() <= MACHINE_FACTS]
    for one in sorted(unknown, key=rank, reverse=True)[:2]:
        axis = next(a for a in one.axes if a.verdict is AxisVerdict.UNKNOWN and a.axis not in MACHINE_FACTS)
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


def lost(best: Candidate, judged: list[Candidate], facts: Facts) -> tuple[str, ...]:
    """What the choice costs: newer releases, and what torch itself does not offer on such a GPU."""
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
    if facts.capabilities and facts.capabilities[-1].number < 75 and best.build.cuda_tag.startswith("cu12"):
        found.append(
            "cuDNN has to stay at the version that torch pins: 9.10 is said to be the last for Maxwell, Pascal and "
            "Volta, so never upgrade nvidia-cudnn-cu12 beside it (user reports; not tried)"
        )
    if facts.capabilities and facts.capabilities[-1].major < 7:
        found.append(
            f"torch.compile is not available on compute capability {facts.capabilities[-1]}: PyTorch's Triton backend "
            "asks for 7.0 (GPUTooOldForTriton in torch/_inductor/scheduler.py, read in 2.14.1)"
        )
    return tuple(found)


def assumptions(best: Candidate, facts: Facts) -> tuple[str, ...]:
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
