"""Facts of a log -> contexts: facts beat wording."""

from __future__ import annotations

import re
from typing import Final

from ongpu.diagnose.model import Facts
from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, best_fit

_TAG: Final = re.compile(r"\+cu(\d{2,3})\Z")
# First kernel-mode driver branch of each CUDA major (NVIDIA, "CUDA minor version compatibility").
_FLOOR_BRANCH: Final = {11: 450, 12: 525, 13: 580}


def derived(facts: Facts) -> set[str]:
    """The ids of :data:`ongpu.catalog.causes.DERIVED` that hold for these facts."""
    found: set[str] = set()
    if facts.torch_versions:
        if all(version.endswith("+cpu") for version in facts.torch_versions):
            found.add("fact-torch-cpu")
        if any(_TAG.search(version) for version in facts.torch_versions):
            found.add("fact-torch-cuda")
    return found | _coverage(facts) | _driver(facts)


def _coverage(facts: Facts) -> set[str]:
    if not (facts.compute_capabilities and facts.code_targets):
        return set()
    try:
        targets = [CodeTarget.parse(target) for target in facts.code_targets]
        devices = [ComputeCapability.parse(capability) for capability in facts.compute_capabilities]
    except ValueError:
        return set()
    fits = [best_fit(targets, device) for device in devices]
    if all(fit is not Fit.NONE for fit in fits):
        return {"fact-gpu-covered"}
    return {"fact-gpu-not-covered"} if all(fit is Fit.NONE for fit in fits) else set()


def _driver(facts: Facts) -> set[str]:
    runtimes = {int(version.split(".")[0]) for version in facts.cuda_runtime_versions}
    for version in facts.torch_versions:
        if tag := _TAG.search(version):
            runtimes.add(int(tag[1][:2]))
    if not runtimes:
        return set()
    needed = max(runtimes)
    ceilings = [int(version.split(".")[0]) for version in facts.cuda_driver_versions]
    branches = [int(version.split(".")[0]) for version in facts.driver_versions]
    floor = _FLOOR_BRANCH.get(needed)
    if branches and floor:
        return {"fact-driver-serves-runtime"} if min(branches) >= floor else {"fact-driver-below-runtime"}
    if ceilings:
        return {"fact-driver-serves-runtime"} if min(ceilings) >= needed else {"fact-driver-below-runtime"}
    return set()
