"""Facts of a log -> contexts for the rules: facts beat wording.

A context is derived only where the facts of the log leave no choice; what they leave open is no context.
"""

from __future__ import annotations

import re
from typing import Final

from ongpu.catalog import Catalog, load
from ongpu.diagnose.model import Facts
from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, best_fit
from ongpu.errors import UsageError

_TAG: Final = re.compile(r"\+cu(\d{2,3})\Z")
_RELEASE: Final = re.compile(r"(\d+\.\d+(?:\.\d+)?)")
# The CUDA versions of the driver branches before the catalog's first one: NVIDIA's CUDA release notes, the table of
# toolkits and their drivers.
_EARLIER_BRANCHES: Final = {
    367: (8, 0), 375: (8, 0), 384: (9, 0), 390: (9, 1), 396: (9, 2), 410: (10, 0), 418: (10, 1), 440: (10, 2),
}  # fmt: skip
_TURING: Final = ComputeCapability(7, 5)


def derived(facts: Facts) -> set[str]:
    """The ids of :data:`ongpu.catalog.causes.DERIVED` that hold for these facts."""
    catalog = load()
    devices = _devices(facts, catalog)
    return (
        _torch(facts)
        | _coverage(facts, devices, catalog)
        | _driver(facts, catalog)
        | _generation(facts, devices, catalog)
    )


def _torch(facts: Facts) -> set[str]:
    if not facts.torch_versions:
        return set()
    last = facts.torch_versions[-1]
    if last.endswith("+cpu"):
        return {"fact-torch-cpu"}
    return {"fact-torch-cuda"} if _TAG.search(last) else set()


def _devices(facts: Facts, catalog: Catalog) -> tuple[ComputeCapability, ...]:
    """The compute capabilities the log states, else those of the GPUs it names, all or none."""
    if facts.compute_capabilities:
        return tuple(ComputeCapability.parse(one) for one in facts.compute_capabilities)
    found = []
    for name in facts.gpus:
        row = catalog.known_gpu(name)
        if row is None:
            try:
                row = catalog.find_gpu(name)
            except UsageError:
                return ()
        found.append(row.compute_capability)
    return tuple(found)


def _targets(facts: Facts, catalog: Catalog) -> tuple[CodeTarget, ...]:
    """The code torch has: as the log lists it, else as the catalog knows the one build the log names."""
    if facts.code_targets:
        return tuple(CodeTarget.parse(one) for one in facts.code_targets)
    if not facts.torch_versions:
        return ()
    version = facts.torch_versions[-1]
    release = _RELEASE.match(version)
    tag = _TAG.search(version)
    runtime = facts.cuda_runtime_versions[-1] if len(facts.cuda_runtime_versions) == 1 else None
    wanted = f"cu{tag[1]}" if tag else runtime and f"cu{runtime.replace('.', '')}"
    system = "windows" if facts.platform == "windows" else "linux"
    if not release or not wanted:
        return ()
    builds = [
        one
        for one in catalog.builds
        if one.torch == release[1] and one.cuda_tag == wanted and one.os == system and one.channel == "stable"
    ]
    builds = [one for one in builds if one.arch == "x86_64"] or builds
    return builds[0].targets if builds else ()


def _coverage(facts: Facts, devices: tuple[ComputeCapability, ...], catalog: Catalog) -> set[str]:
    if facts.capability_ranges and devices:
        low, high = (ComputeCapability.parse(one) for one in facts.capability_ranges[-1].split("-"))
        inside = [device >= low and device.major <= high.major for device in devices]
        return _all_or_none(inside)
    targets = _targets(facts, catalog)
    if not (devices and targets):
        return set()
    fits = [best_fit(targets, device) for device in devices]
    # PTX in a list is no proof: not every library of a build carries it, so a JIT fit leaves it open
    if all(fit is Fit.NATIVE for fit in fits):
        return {"fact-gpu-covered"}
    if all(fit is Fit.NONE for fit in fits):
        return {"fact-gpu-not-covered"}
    return set() if any(fit is Fit.NATIVE for fit in fits) else {"fact-gpu-by-ptx-only"}


def _all_or_none(inside: list[bool]) -> set[str]:
    if all(inside):
        return {"fact-gpu-covered"}
    return set() if any(inside) else {"fact-gpu-not-covered"}


def _driver(facts: Facts, catalog: Catalog) -> set[str]:
    """Whether the driver serves torch's CUDA runtime: of one major from 11 on, of the very version before."""
    runtimes = {_version(version) for version in facts.cuda_runtime_versions}
    for version in facts.torch_versions[-1:]:
        if tag := _TAG.search(version):
            runtimes.add((int(tag[1][:-1]), int(tag[1][-1])))
    ceilings = _ceilings(facts, catalog)
    if not (runtimes and ceilings):
        return set()
    needed, held = max(runtimes), min(ceilings)
    serves = held[0] >= needed[0] if needed[0] >= 11 else held >= needed
    return {"fact-driver-serves-runtime"} if serves else {"fact-driver-below-runtime"}


def _ceilings(facts: Facts, catalog: Catalog) -> list[tuple[int, ...]]:
    """The CUDA driver versions that the log states, else those of the driver branches it names."""
    if facts.cuda_driver_versions:
        return [_version(version) for version in facts.cuda_driver_versions]
    versions = [_version(version) for version in facts.driver_versions]
    ceilings: list[tuple[int, ...]] = [
        _EARLIER_BRANCHES[version[0]] for version in versions if version[0] in _EARLIER_BRANCHES
    ]
    branches = [catalog.branch(version) for version in versions]
    return ceilings + [(branch.cuda.major, branch.cuda.minor) for branch in branches if branch]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _generation(facts: Facts, devices: tuple[ComputeCapability, ...], catalog: Catalog) -> set[str]:
    found: set[str] = set()
    old = [device < _TURING for device in devices] + [_chip_is_old(chip) for chip in facts.pci_ids]
    if old:
        found.add("fact-gpu-pre-turing" if all(old) else "fact-gpu-turing-or-newer")
    branches = [int(version.split(".")[0]) for version in facts.driver_versions]
    rows = [catalog.generation(device) for device in devices]
    lasts = [row.last_branch for row in rows if row and row.last_branch]
    if branches and lasts and min(branches) >= max(lasts) + 5:
        # the branch after the last one: 580 is followed by 590, 470 by 495; Windows numbers run a little ahead
        found.add("fact-gpu-dropped-by-driver")
    return found


def _chip_is_old(device_id: str) -> bool:
    """NVIDIA numbers PCI devices by chip: 1E and above is Turing or newer (open-gpu-kernel-modules README)."""
    return int(device_id[:2], 16) < 0x1E
