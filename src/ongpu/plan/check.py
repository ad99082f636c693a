"""Judging a command that somebody was given: what it would install, whether that runs here, what to type instead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ongpu.catalog import Catalog, RetiredRow
from ongpu.domain.arch import ComputeCapability, Fit, RuntimeVersion, best_fit
from ongpu.domain.build import Axis, AxisVerdict, Decision, DecisionKind, TorchBuild
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan.advice import Advice, Index, read_command
from ongpu.plan.build_axes import judge
from ongpu.plan.choose import plan
from ongpu.plan.facts import Facts, gather
from ongpu.plan.machine_axes import machine_axes
from ongpu.plan.request import Request, Requirement, requirement, version

# PyTorch's own conda channel was given up in 2024 (pytorch/pytorch issue 138506); that 2.5.1 was its last release is
# general knowledge.
_LAST_CONDA = "2.5.1"
_NO_RELEASE = "0.0.0"
_MACHINE_FACTS = frozenset({"driver", "glibc"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pick:
    """What the command would install, or why it would install nothing."""

    build: TorchBuild | None
    reasons: tuple[str, ...] = ()
    cause: Cause | None = None
    unknown: bool = False


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
    pick = _pick(advice, facts, catalog=catalog)
    axes = of_machine
    reasons, cause, works = list(pick.reasons), pick.cause, None if pick.unknown else pick.build is not None
    if pick.build is not None and pick.build.cuda_tag != "cpu" and len(of_machine) > 2:
        candidate = judge(pick.build, facts, catalog=catalog, request=Request(channel="any"), requirement=None)
        axes = (*of_machine, *candidate.axes)
        if candidate.unknowns() - _MACHINE_FACTS and works:
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
        build=pick.build.label if pick.build and pick.build.torch != _NO_RELEASE else None,
        reasons=tuple(dict.fromkeys(reasons)),
        axes=axes,
        cause=None if works else cause,
        instead=instead,
        next_step=_next_step(works, pick, instead),
    )


def _next_step(works: bool | None, pick: _Pick, instead: Decision) -> str:  # noqa: FBT001 - three-valued, private
    better = " ".join(instead.command)
    if instead.decision is not DecisionKind.PREBUILT:
        return instead.next_step
    if not works:
        return f"Type instead: {better}"
    if pick.build is not None and version(pick.build.torch) < version(instead.torch or "0"):
        return f"It works; newer for this machine: {better}"
    return "It works as it is."


def _pick(advice: Advice, facts: Facts, *, catalog: Catalog) -> _Pick:
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
        return _Pick(build=None, unknown=True, reasons=tuple(r for one in picks for r in one.reasons))
    best = max(found, key=lambda one: _pip_key(one.build))
    if len(picks) > 1:
        note = f"pip takes the highest version of all indexes, here {best.build.label if best.build else ''}"
        return dataclasses.replace(best, reasons=(*best.reasons, note))
    return best


def _pip_key(build: TorchBuild | None) -> tuple[object, bool]:
    """How pip orders candidates: by version, a local label above none (PyPI's files carry none)."""
    assert build is not None
    return (version(build.torch), not build.pypi_default)


def _from_index(index: Index, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> _Pick:
    if index.kind == "other" or index.channel == "test":
        return _Pick(build=None, unknown=True, reasons=(f"what {index.label} has is not known to the catalog",))
    if index.tag == "cpu":
        return _cpu("the index cpu has CPU builds only", facts)
    if index.tag is not None and not index.tag.startswith("cu"):
        return _Pick(
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
        return _Pick(
            build=None,
            reasons=(f"{index.label} has no build for {machine.os} on {machine.arch}",),
            cause=Cause.PYTHON_ENV,
        )
    return _newest(pool, index, facts, wanted, catalog=catalog)


def _newest(
    pool: list[TorchBuild], index: Index, facts: Facts, wanted: Requirement | None, *, catalog: Catalog
) -> _Pick:
    asked = [one for one in pool if wanted is None or _allows(wanted, one, index)]
    if not asked and wanted is not None:
        return _Pick(build=None, reasons=(_no_such(wanted, index, facts, catalog=catalog),), cause=Cause.WHEEL_NO_ARCH)
    fitting = [one for one in asked if not one.pythons or facts.python in one.pythons]
    if not fitting:
        newest = max(asked, key=lambda one: version(one.torch))
        return _Pick(
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
    return _Pick(build=build)


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


def _retired(row: RetiredRow, index: Index, facts: Facts) -> _Pick:
    frozen = f"the index {index.label} gets no new builds: its last are of about {row.date_to}"
    if not row.targets:
        return _Pick(build=None, unknown=True, reasons=(frozen, "their code targets varied"))
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
    return _Pick(build=build, reasons=(frozen,))


def _cpu(reason: str, facts: Facts, *, build: TorchBuild | None = None) -> _Pick:
    stand_in = build or TorchBuild(
        torch=_NO_RELEASE,
        channel="stable",
        cuda_tag="cpu",
        os=facts.machine.os,
        arch=facts.machine.arch,
        pythons=(),
        targets=(),
        pypi_default=False,
        source="the command",
    )
    return _Pick(build=stand_in, reasons=(f"{reason}: it never uses the GPU",), cause=Cause.CPU_ONLY_TORCH)


def _backend(advice: Advice, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> _Pick:
    """uv's ``--torch-backend``: a tag, or ``auto``, which looks at the driver and never at the GPU."""
    backend = advice.backend or ""
    if backend != "auto":
        return _from_index(Index(kind="tag", tag=backend), facts, wanted, catalog=catalog)
    note = "uv's --torch-backend=auto looks at the driver alone, never at the GPU (uv issue 14742)"
    if facts.driver is None:
        return _Pick(build=None, unknown=True, reasons=(note, "the driver is not known"))
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


def _conda(advice: Advice, facts: Facts, wanted: Requirement | None, *, catalog: Catalog) -> _Pick:
    if "conda-forge" in advice.channels or "pytorch" not in advice.channels:
        return _Pick(
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
        return _Pick(build=None, unknown=True, reasons=(note, f"whether it had CUDA {advice.conda_cuda} is not known"))
    pick = _newest(pool, Index(kind="tag", tag=tag, url="conda"), facts, wanted, catalog=catalog)
    return dataclasses.replace(pick, reasons=(note, *pick.reasons))


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
