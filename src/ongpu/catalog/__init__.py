"""The facts that a choice rests on: PyTorch builds, drivers, GPUs, companions; each row with its source and date."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

from ongpu.catalog import read
from ongpu.catalog.check import check
from ongpu.catalog.machines import described_machine, described_machines
from ongpu.catalog.read import CatalogError
from ongpu.catalog.rows import (
    BranchRow,
    CompanionRow,
    GenerationRow,
    GlibcRow,
    GpuRow,
    RetiredRow,
    ToolkitRow,
    Version,
)
from ongpu.domain.arch import ComputeCapability, RuntimeVersion
from ongpu.domain.build import TorchBuild
from ongpu.domain.gpu_name import brand, words
from ongpu.errors import UsageError

__all__ = [
    "BranchRow",
    "Catalog",
    "CatalogError",
    "CompanionRow",
    "GenerationRow",
    "GlibcRow",
    "GpuRow",
    "RetiredRow",
    "ToolkitRow",
    "Version",
    "described_machine",
    "described_machines",
    "load",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every table, checked. ``date`` is the newest reading of a build."""

    builds: tuple[TorchBuild, ...]
    gpus: tuple[GpuRow, ...]
    generations: tuple[GenerationRow, ...]
    branches: tuple[BranchRow, ...]
    drivers: tuple[ToolkitRow, ...]
    companions: tuple[CompanionRow, ...]
    glibcs: tuple[GlibcRow, ...]
    retired: tuple[RetiredRow, ...]

    @property
    def date(self) -> str:
        """When the newest build was read, ``2026-11-22``."""
        return max(one.checked for one in self.builds)

    @property
    def newest(self) -> str:
        """The newest stable torch release known, ``2.15.0``."""
        stable = [one.torch for one in self.builds if one.channel == "stable"]
        return max(stable, key=lambda one: tuple(int(part) for part in one.split(".")))

    def generation(self, capability: ComputeCapability) -> GenerationRow | None:
        """What the driver asks of a capability; ``None`` for one the catalog does not know."""
        return next((one for one in self.generations if one.compute_capability == capability), None)

    def branch(self, driver: Version) -> BranchRow | None:
        """The branch a driver version belongs to: 580 for Linux ``580.95.05`` and for Windows ``581.29``.

        ``None`` for one older than every known branch. A release of a branch that came after this catalog
        counts for the newest one known: the caller says so.
        """
        older = [one for one in self.branches if one.branch <= driver[0]]
        return max(older, key=lambda one: one.branch) if older else None

    def toolkits(self, runtime: RuntimeVersion) -> tuple[ToolkitRow, ...]:
        """The toolkit rows of a runtime, first release first."""
        found = [one for one in self.drivers if one.cuda == runtime]
        return tuple(sorted(found, key=lambda one: (one.update != "GA", one.update)))

    def glibc(self, build: TorchBuild) -> GlibcRow | None:
        """The glibc a Linux build asks for; ``None`` on other systems."""
        if build.os != "linux":
            return None
        release = tuple(int(part) for part in build.torch.removesuffix(".dev").split("."))
        held = [
            one
            for one in self.glibcs
            if one.torch_from <= release and one.arch in {"", build.arch} and one.cuda_tag in {"", build.cuda_tag}
        ]
        return held[-1] if held else None

    def find_gpu(self, name: str) -> GpuRow:
        """The GPU a person means.

        The whole model name counts, after vendor and brand. A shorter name is taken where every model that
        contains it has the same compute capability (``4090``, ``Orin``).

        :raises UsageError: for an unknown name (the nearest are offered) and for one that means GPUs of
            different compute capability (``RTX 6000``: Turing, Ada and Blackwell).
        """
        wanted = words(name)
        if not wanted:
            raise UsageError(f"{name!r} names no GPU.", next_step="Give a model name such as 'RTX 5090'.")
        exact = [one for one in self.gpus if words(one.name) == wanted and _same_brand(name, one.name)]
        wider = [one for one in self.gpus if _contains(words(one.name), wanted) and _same_brand(name, one.name)]
        if exact:
            quadro = brand(exact[0].name) == "quadro" and brand(name) is None
            if not quadro or len({one.compute_capability for one in wider}) == 1:
                return exact[0]
        capabilities = {one.compute_capability for one in wider}
        if len(capabilities) == 1:
            return wider[0]
        if capabilities:
            one_each = {one.compute_capability: one for one in reversed(wider)}
            listed = "; ".join(f"{one.name} ({capability})" for capability, one in sorted(one_each.items()))
            raise UsageError(f"{name!r} means several GPUs.", next_step=f"Give the whole name: {listed}.")
        raise UsageError(
            f"The catalog of {self.date} knows no GPU {name!r}.",
            next_step=f"Did you mean {', '.join(self._nearest(wanted))}? Or give --compute-capability.",
        )

    def known_gpu(self, name: str) -> GpuRow | None:
        """The row whose name is exactly this model, for names a driver prints; ``None`` if there is none."""
        wanted = words(name)
        return next((one for one in self.gpus if words(one.name) == wanted), None)

    def _nearest(self, wanted: tuple[str, ...]) -> list[str]:
        by_words = {" ".join(words(one.name)): one.name for one in self.gpus}
        near = difflib.get_close_matches(" ".join(wanted), by_words, n=4, cutoff=0.5)
        return [by_words[one] for one in near] or ["NVIDIA GeForce RTX 5090", "NVIDIA H100 PCIe"]


def _same_brand(typed: str, known: str) -> bool:
    one, other = brand(typed), brand(known)
    return one is None or other is None or one == other


def _contains(whole: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether ``part`` stands in ``whole`` as it is.

    One word without a digit must start it: ``orin`` is a model, ``blackwell`` is three incompatible generations.
    """
    loose = len(part) > 1 or any(letter.isdigit() for letter in part[0])
    starts = range(len(whole) - len(part) + 1) if loose else range(1)
    return any(whole[start : start + len(part)] == part for start in starts)


@functools.cache
def load() -> Catalog:
    """The shipped catalog, read once and checked. Raises :class:`CatalogError` naming file and line."""
    catalog = Catalog(
        builds=read.parse(read.table_text("builds.csv"), file="builds.csv", make=read.build_row),
        gpus=read.parse(read.table_text("gpus.csv"), file="gpus.csv", make=read.gpu_row),
        generations=read.parse(read.table_text("generations.csv"), file="generations.csv", make=read.generation_row),
        branches=read.parse(read.table_text("branches.csv"), file="branches.csv", make=read.branch_row),
        drivers=read.parse(read.table_text("toolkits.csv"), file="toolkits.csv", make=read.toolkit_row),
        companions=read.parse(read.table_text("companions.csv"), file="companions.csv", make=read.companion_row),
        glibcs=read.parse(read.table_text("glibc.csv"), file="glibc.csv", make=read.glibc_row),
        retired=read.parse(read.table_text("retired.csv"), file="retired.csv", make=read.retired_row),
    )
    check(
        builds=catalog.builds,
        gpus=catalog.gpus,
        generations=catalog.generations,
        branches=catalog.branches,
        toolkits=catalog.drivers,
    )
    return catalog
