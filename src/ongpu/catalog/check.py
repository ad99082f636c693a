"""What must hold between the rows of the catalog: a fact that contradicts another is named, not used."""

from __future__ import annotations

from collections.abc import Sequence

from ongpu.catalog.read import CatalogError
from ongpu.catalog.rows import BranchRow, GenerationRow, GpuRow, ToolkitRow
from ongpu.domain.arch import CodeKind, CodeTarget
from ongpu.domain.build import TorchBuild

# 2.14 was the last release line with CUDA 12 wheels (pytorch/test-infra PR #8739).
_LAST_CUDA12 = (2, 14)
# No toolkit before 12.8 has a target of Blackwell's majors.
_FIRST_BLACKWELL_TAG = 128


def check(
    *,
    builds: Sequence[TorchBuild],
    gpus: Sequence[GpuRow],
    generations: Sequence[GenerationRow],
    branches: Sequence[BranchRow],
    toolkits: Sequence[ToolkitRow],
) -> None:
    """Compare the tables with each other and each row with what can be true. Raises :class:`CatalogError`."""
    for line, build in enumerate(builds, start=2):
        if reason := _wrong_build(build):
            raise CatalogError(f"builds.csv, line {line}: {build.label} {build.os} {build.arch}: {reason}.")
    _unique([f"{one.label} {one.os} {one.arch} {one.channel}" for one in builds], file="builds.csv")
    _unique([one.name for one in gpus], file="gpus.csv")
    _unique([str(one.compute_capability) for one in generations], file="generations.csv")
    _nothing_lost(builds)
    known = {one.compute_capability for one in generations}
    for line, gpu in enumerate(gpus, start=2):
        if gpu.compute_capability not in known:
            raise CatalogError(f"gpus.csv, line {line}: generations.csv has no {gpu.compute_capability}.")
    ordered = [one.branch for one in branches]
    if ordered != sorted(set(ordered)) or [one.cuda.minor + 100 * one.cuda.major for one in branches] != sorted(
        one.cuda.minor + 100 * one.cuda.major for one in branches
    ):
        raise CatalogError("branches.csv: branches and their CUDA driver versions must rise together.")
    runtimes = {one.cuda for one in toolkits}
    for line, build in enumerate(builds, start=2):
        if build.runtime is not None and build.runtime not in runtimes:
            raise CatalogError(f"builds.csv, line {line}: toolkits.csv has no CUDA {build.runtime}.")


def _wrong_build(build: TorchBuild) -> str | None:
    if build.cuda_tag == "cpu":
        return "a CPU build has code targets" if build.targets else None
    if build.os == "windows" and build.pypi_default:
        return "PyPI's Windows wheels have always been CPU-only"
    release = tuple(int(part) for part in build.torch.split(".")[:2])
    tag = int(build.cuda_tag.removeprefix("cu"))
    if tag < 130 and release > _LAST_CUDA12:
        return "no CUDA 12 build was published after 2.14"
    for kind in CodeKind:
        numbers = [one.number for one in build.targets if one.kind is kind]
        if numbers != sorted(set(numbers)):
            return f"the {kind.name} targets are not in rising order"
    if tag < _FIRST_BLACKWELL_TAG and any(_blackwell(one) for one in build.targets):
        return "a toolkit before 12.8 cannot make code for compute capability 10.0 or later"
    return None


def _blackwell(target: CodeTarget) -> bool:
    return target.number >= 100


def _nothing_lost(builds: Sequence[TorchBuild]) -> None:
    """A newer build may not have forgotten what an older one of its kind says: that is a hole, not a fact."""
    latest: dict[tuple[str, str, str, str], TorchBuild] = {}
    for line, build in enumerate(builds, start=2):
        key = (build.channel, build.cuda_tag, build.os, build.arch)
        before = latest.get(key)
        if before and before.pythons and not build.pythons:
            raise CatalogError(f"builds.csv, line {line}: {build.label} has lost the Pythons of {before.label}.")
        latest[key] = build


def _unique(keys: Sequence[str], *, file: str) -> None:
    seen: dict[str, int] = {}
    for line, key in enumerate(keys, start=2):
        if key in seen:
            raise CatalogError(f"{file}, line {line}: {key!r} is already on line {seen[key]}.")
        seen[key] = line
