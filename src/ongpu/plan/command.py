"""The command a person types, and the companions that go with a build."""

from __future__ import annotations

from ongpu.catalog import Catalog, CompanionRow
from ongpu.domain.arch import Fit, best_fit
from ongpu.domain.build import Companion, TorchBuild
from ongpu.plan.facts import Facts
from ongpu.plan.request import COMPANIONS, index_url, requirement, version


def install_command(build: TorchBuild, *, companions: tuple[Companion, ...] = ()) -> tuple[str, ...]:
    """The installer's words for a build and the companions that exist for it."""
    words = ["uv", "pip", "install"]
    if build.channel == "nightly":
        words += ["--pre", "torch"]
    else:
        words.append(f"torch=={build.torch}")
    words += [f"{one.name}=={one.version}" for one in companions if one.version is not None]
    if (index := index_url(build)) is not None:
        words += ["--index-url", index]
    return tuple(words)


def pair(
    build: TorchBuild, facts: Facts, *, catalog: Catalog, names: tuple[str, ...] = COMPANIONS
) -> tuple[Companion, ...]:
    """torchvision and torchaudio beside a build: the release that pairs, or why there is none."""
    return tuple(_companion(name, build, facts, catalog=catalog) for name in names)


def _companion(name: str, build: TorchBuild, facts: Facts, *, catalog: Catalog) -> Companion:
    if build.channel == "nightly":
        return Companion(
            name=name,
            version=None,
            fits=None,
            reason="nightlies pair by date: take the one of the same day from the same index",
            source="download.pytorch.org nightly index",
        )
    rows = [one for one in catalog.companions if one.name == name]
    allowed = [one for one in rows if requirement(one.torch).allows_release(build.torch)]
    if not allowed:
        last = max(rows, key=lambda one: version(one.version))
        return Companion(
            name=name,
            version=None,
            fits=None,
            reason=f"no {name} is known to pair with torch {build.torch}; the last known is {last.version} "
            f"(torch{last.torch})",
            source=last.source,
        )
    row = _best(allowed, build, catalog=catalog)
    fits, code = _code(row, build, facts)
    return Companion(
        name=name,
        version=None if fits is False else row.version,
        fits=fits,
        reason=f"{name} {row.version} goes with torch{row.torch}; {code}" + _ended(rows, row, build),
        source=row.source,
    )


def _best(allowed: list[CompanionRow], build: TorchBuild, *, catalog: Catalog) -> CompanionRow:
    """A pinned pair first; else the release whose PyPI variant has the CUDA tag of torch's own PyPI variant."""
    pinned = [one for one in allowed if one.torch.startswith("==")]
    if pinned:
        return max(pinned, key=lambda one: version(one.version))
    default = next((one.cuda_tag for one in catalog.builds if one.torch == build.torch and one.pypi_default), None)
    default = default if default != "cpu" else build.cuda_tag
    same = [one for one in allowed if one.read_tag == default]
    return max(same or allowed, key=lambda one: version(one.version))


def _code(row: CompanionRow, build: TorchBuild, facts: Facts) -> tuple[bool | None, str]:
    if not row.cuda_code:
        return True, "it has no CUDA code of its own"
    if row.read_tag != build.cuda_tag or (build.os, build.arch) != ("linux", "x86_64"):
        return None, f"the code of its {build.cuda_tag} variant was not read"
    without = [
        one.label
        for one in facts.devices
        if one.capability and best_fit(row.targets, one.capability, runtime=build.runtime) is Fit.NONE
    ]
    if without:
        return False, f"refused: it has no code for {', '.join(without)}"
    return True, "its own CUDA code fits too"


def _ended(rows: list[CompanionRow], row: CompanionRow, build: TorchBuild) -> str:
    last = max(rows, key=lambda one: version(one.version))
    behind = version(row.version).release[:2] < version(build.torch).release[:2]
    if row.name == "torchaudio" and row is last and not row.torch.startswith("==") and behind:
        return f"; {row.name} ended with {row.version}, there is no release made for torch {build.torch}"
    return ""
