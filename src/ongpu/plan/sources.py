"""What an install command would put on a machine: which index, which release, which variant."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ongpu.catalog import Catalog, RetiredRow
from ongpu.domain.build import TorchBuild
from ongpu.domain.verdict import Cause
from ongpu.plan.advice import Advice, Index
from ongpu.plan.facts import Facts
from ongpu.plan.request import Requirement, requirement, version

# PyTorch's own conda channel was given up in 2024 (pytorch/pytorch issue 138506); that 2.5.1 was its last release is
# general knowledge.
_LAST_CONDA = "2.5.1"
NO_RELEASE = "0.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What the command would install, or why it would install nothing."""

    build: TorchBuild | None
    reasons: tuple[str, ...] = ()
    cause: Cause | None = None
    unknown: bool = False


def what_it_installs(advice: Advice, facts: Facts, *, catalog: Catalog) -> Pick:
    """The build an installer would take for a command on a machine, by the installers' own rules."""
    wanted = requirement(advice.torch) if advice.torch and "cpu" not in advice.torch else None
    if advice.torch and "+cpu" in advice.torch:
        return _cpu("the requirement itself names a CPU build", facts)
    if advice.installer == "conda":
        return _conda(advice, facts, wanted, catalog=catalog)
    if advice.backend is not None:
        return _backend(advice, facts, wanted, catalog=catalog)
    sources = (advice.index, *advice.extra)
    picks = [_from_index(one, facts, wanted, catalog=catalog) for one in sources]
    found = [one for one in picks if one.build is not None]
    if advice.installer == "uv" and len(found) > 1:
        # uv asks an extra index first and stops at the first one that has the package.
        return found[1]
    if not found:
        return next((one for one in picks if one.unknown), picks[-1])
    if any(one.unknown for one in picks) and len(picks) > 1:
        return Pick(build=None, unknown=True, reasons=tuple(r for one in picks for r in one.reasons))
    best = max(found, key=lambda one: _pip_key(one.build))
    if len(picks) > 1:
        note = f"pip takes the highest version of all indexes, here {best.build.label if best.build else ''}"
        return dataclasses.replace(best, reasons=(*best.reasons, note))
    return best


def _pip_key(build: TorchBuild | None) -> tuple[object, bool]:
    """How pip orders candidates: by version, a local label above none (PyPI's files carry none)."""
    assert build is not None
    return (version(build.torch), not build.pypi_default)


def _from_index(index: Index, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> Pick:
    if index.kind == "other" or index.channel == "test":
        return Pick(build=None, unknown=True, reasons=(f"what {index.label} has is not known to the catalog",))
    if index.tag == "cpu":
        return _cpu("the index cpu has CPU builds only", facts)
    if index.tag is not None and not index.tag.startswith("cu"):
        return Pick(
            build=None,
            reasons=(f"{index.tag} builds are not for NVIDIA GPUs",),
            cause=Cause.WHEEL_NO_ARCH,
        )
    machine = facts.machine
    here = [one for one in catalog.builds if (one.os, one.arch) == (machine.os, machine.arch)]
    if index.kind == "pypi":
        pool = [one for one in here if one.pypi_default]
    else:
        pool = [one for one in here if one.cuda_tag == index.tag and one.channel == index.channel]
    retired = next((o for o in catalog.retired if (o.cuda_tag, o.channel) == (index.tag, index.channel)), None)
    if not pool and retired is not None:
        return _retired(retired, index, facts)
    if not pool:
        return Pick(
            build=None,
            reasons=(f"{index.label} has no build for {machine.os} on {machine.arch}",),
            cause=Cause.PYTHON_ENV,
        )
    return _newest(pool, index, facts, wanted, catalog=catalog)


def _newest(
    pool: list[TorchBuild], index: Index, facts: Facts, wanted: Requirement | None, *, catalog: Catalog
) -> Pick:
    asked = [one for one in pool if wanted is None or _allows(wanted, one, index)]
    if not asked and wanted is not None:
        return Pick(build=None, reasons=(_no_such(wanted, index, facts, catalog=catalog),), cause=Cause.WHEEL_NO_ARCH)
    fitting = [one for one in asked if not one.pythons or facts.python in one.pythons]
    if not fitting:
        newest = max(asked, key=lambda one: version(one.torch))
        return Pick(
            build=None,
            reasons=(
                f"{index.label} has no such torch for Python {facts.python}: {newest.torch} has "
                f"{newest.pythons[0]} to {newest.pythons[-1]}",
            ),
            cause=Cause.PYTHON_ENV,
        )
    build = max(fitting, key=lambda one: version(one.torch))
    if build.cuda_tag == "cpu":
        return _cpu(f"PyPI's torch {build.torch} for {build.os} on {build.arch} is a CPU build", facts, build=build)
    return Pick(build=build)


def _allows(wanted: Requirement, build: TorchBuild, index: Index) -> bool:
    if index.kind == "pypi" and wanted.cuda_tag is not None:
        return False  # PyPI's files carry no local label, so '==2.9.1+cu128' matches none of them
    return wanted.allows(build)


def _no_such(wanted: Requirement, index: Index, facts: Facts, *, catalog: Catalog) -> str:
    machine = facts.machine
    released = [
        one
        for one in catalog.builds
        if wanted.allows_release(one.torch)
        and (one.os, one.arch) == (machine.os, machine.arch)
        and one.cuda_tag != "cpu"
        and one.publication != "unverified"
    ]
    if not released:
        return f"{index.label} has no torch {wanted.text}"
    newest = max(released, key=lambda one: version(one.torch)).torch
    tags = ", ".join(one.cuda_tag for one in released if one.torch == newest)
    if index.kind == "pypi":
        return f"PyPI has no torch {wanted.text}: builds with a CUDA label are on PyTorch's own index"
    return f"no torch {newest} was published for {index.label}: that release has {tags}"


def _retired(row: RetiredRow, index: Index, facts: Facts) -> Pick:
    frozen = f"the index {index.label} gets no new builds: its last are of about {row.date_to}"
    if not row.targets:
        return Pick(build=None, unknown=True, reasons=(frozen, "their code targets varied"))
    build = TorchBuild(
        torch=row.torch_to,
        channel=row.channel,
        cuda_tag=row.cuda_tag,
        os=facts.machine.os,
        arch=facts.machine.arch,
        pythons=(facts.python,),
        targets=row.targets,
        pypi_default=False,
        source=row.source,
        checked=row.checked,
    )
    return Pick(build=build, reasons=(frozen,))


def _cpu(reason: str, facts: Facts, *, build: TorchBuild | None = None) -> Pick:
    stand_in = build or TorchBuild(
        torch=NO_RELEASE,
        channel="stable",
        cuda_tag="cpu",
        os=facts.machine.os,
        arch=facts.machine.arch,
        pythons=(),
        targets=(),
        pypi_default=False,
        source="the command",
    )
    return Pick(build=stand_in, reasons=(f"{reason}: it never uses the GPU",), cause=Cause.CPU_ONLY_TORCH)


def _backend(advice: Advice, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> Pick:
    """uv's ``--torch-backend``: a tag, or ``auto``, which looks at the driver and never at the GPU."""
    backend = advice.backend or ""
    if backend != "auto":
        return _from_index(Index(kind="tag", tag=backend), facts, wanted, catalog=catalog)
    note = "uv's --torch-backend=auto looks at the driver alone, never at the GPU (uv issue 14742)"
    if facts.driver is None:
        return Pick(build=None, unknown=True, reasons=(note, "the driver is not known"))
    tags = sorted({one.cuda_tag for one in catalog.builds if one.channel == "stable"} - {"cpu"}, reverse=True)
    for tag in tags:
        rows = catalog.toolkits(next(one.runtime for one in catalog.builds if one.cuda_tag == tag and one.runtime))
        floor = rows[0].compat_windows if facts.windows_driver else rows[0].compat_linux
        if facts.driver < floor:
            continue
        pick = _from_index(Index(kind="tag", tag=tag), facts, wanted, catalog=catalog)
        if pick.build is not None and pick.build.publication != "unverified":
            return dataclasses.replace(pick, reasons=(note, *pick.reasons))
    return _cpu(f"{note}; for this driver it falls back to a CPU build", facts)


def _conda(advice: Advice, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> Pick:
    if "conda-forge" in advice.channels or "pytorch" not in advice.channels:
        return Pick(
            build=None, unknown=True, reasons=("conda-forge builds its own PyTorch, which this catalog does not cover",)
        )
    note = f"PyTorch's own conda channel ended with {_LAST_CONDA}"
    tag = f"cu{(advice.conda_cuda or '12.4').replace('.', '')}"
    pool = [
        one
        for one in catalog.builds
        if (one.os, one.arch, one.cuda_tag) == (facts.machine.os, facts.machine.arch, tag)
        and version(one.torch) <= version(_LAST_CONDA)
    ]
    if not pool:
        return Pick(build=None, unknown=True, reasons=(note, f"whether it had CUDA {advice.conda_cuda} is not known"))
    pick = _newest(pool, Index(kind="tag", tag=tag, url="conda"), facts, wanted, catalog=catalog)
    return dataclasses.replace(pick, reasons=(note, *pick.reasons))
