"""Findings about what is installed beside torch: extensions without code, mixed and missing CUDA libraries. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from ongpu.doctor.report import Finding, InstalledCode, PackageReport, Weight
from ongpu.domain.arch import ComputeCapability, RuntimeVersion
from ongpu.domain.coverage import CodeVerdict
from ongpu.domain.environment import Environment, Package
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause
from ongpu.scan import judge_coverage

_CUDA_PACKAGE: Final = re.compile(
    r"(?:nvidia|cuda|cupy|cutensor|custatevec|cudf|cuml|rmm)[a-z0-9-]*?-?cu(?:da)?(1[1-9])x?\Z"
)
_MANY: Final = 4


def packages_for(
    environment: Environment,
    code: InstalledCode,
    devices: Sequence[ComputeCapability],
    *,
    driver_cuda: RuntimeVersion | None,
) -> tuple[PackageReport, ...]:
    """Every package with device code, judged for the visible GPUs."""
    if code.packages is None or not devices:
        return ()
    runtime = environment.torch.runtime if environment.torch else None
    verdict = judge_coverage(code.packages, tuple(dict.fromkeys(devices)), runtime=runtime, driver_cuda=driver_cuda)
    return tuple(
        PackageReport(name=one.name, version=one.version, fits=one.fits, note=one.note)
        for one in verdict.packages
        if any(fit.verdict is not CodeVerdict.NO_CODE for fit in one.fits)
    )


def extension_findings(environment: Environment, packages: Sequence[PackageReport]) -> Iterator[Finding]:
    """Packages without code for a GPU. One that extends torch blocks: a training that imported it dies in it."""
    for package in packages:
        installed = environment.package(package.name.lower().replace("_", "-").replace(".", "-"))
        extends = installed is not None and _extends_torch(installed)
        everywhere = all(fit.verdict is CodeVerdict.NONE for fit in package.fits)
        for fit in package.fits:
            if fit.verdict is CodeVerdict.NONE:
                yield Finding(
                    weight=Weight.BLOCKS if extends and everywhere else Weight.WARNS,
                    cause=Cause.EXTENSION_NO_ARCH,
                    title=f"{package.name} {package.version} has no code for {fit.device}",
                    reason=f"{fit.reason}. A call into it fails with 'no kernel image is available'"
                    + (", unless it has another way that was not compiled ahead." if not extends else "."),
                    next_step=f"Update {package.name}, build it from source for {fit.device}, or uninstall it.",
                )
            elif fit.verdict is CodeVerdict.PARTIAL:
                yield Finding(
                    weight=Weight.WARNS,
                    cause=None,
                    title=f"a part of {package.name} {package.version} has no code for {fit.device}",
                    reason=f"{fit.reason}.",
                )
            elif fit.verdict is CodeVerdict.UNKNOWN:
                yield Finding(
                    weight=Weight.NOTES,
                    cause=None,
                    title=f"{package.name} {package.version} could not be judged for {fit.device}",
                    reason=f"{fit.reason}.",
                )


def library_findings(environment: Environment, machine: Machine) -> Iterator[Finding]:
    """CUDA libraries torch needs and does not find as it wants them, and those of another CUDA version beside them."""
    torch, listed = environment.torch, environment.package("torch")
    # conda's torch takes its libraries from conda's packages, whatever the metadata meant for pip says.
    if torch is None or torch.runtime is None or listed is None or listed.installer == "conda":
        return
    wanted = list(_cuda_requirements(listed, environment, machine))
    missing = [one for one in wanted if environment.package(_normal(one.name)) is None]
    if missing:
        names = ", ".join(str(one).partition(";")[0].strip() for one in missing[:_MANY])
        more = f" and {len(missing) - _MANY} more" if len(missing) > _MANY else ""
        yield Finding(
            weight=Weight.WARNS,
            cause=Cause.PYTHON_ENV,
            title="CUDA libraries that torch needs are not installed",
            reason=f"torch {torch.version} requires {names}{more}; unless the system has them, `import torch` fails.",
            next_step="Install torch again with its dependencies (without --no-deps).",
        )
    other = [(one, _installed(environment, one)) for one in wanted if one not in missing]
    wrong = [(one, found) for one, found in other if not _satisfied(one.specifier, found.version)]
    if wrong:
        names = ", ".join(f"{found.name} {found.version} (wants {one.specifier})" for one, found in wrong[:_MANY])
        yield Finding(
            weight=Weight.WARNS,
            cause=Cause.PYTHON_ENV,
            title="CUDA libraries are not in the version torch was built with",
            reason=f"{names}. Another package changed them after torch was installed.",
            next_step="Install torch again; where another package needs that version, keep it in its own environment.",
        )
    majors: dict[int, list[str]] = {}
    for package in environment.packages:
        found = _CUDA_PACKAGE.fullmatch(package.name)
        if found:
            majors.setdefault(int(found[1]), []).append(package.name)
    strangers = {major: names for major, names in majors.items() if major != torch.runtime.major}
    if strangers:
        names = ", ".join(name for group in strangers.values() for name in group[:_MANY])
        yield Finding(
            weight=Weight.NOTES,
            cause=None,
            title="libraries of another CUDA version are installed",
            reason=f"torch uses CUDA {torch.runtime}; beside it are {names}. They lie in folders of their own and do "
            "no harm unless a package loads them into the same process.",
        )


def _extends_torch(package: Package) -> bool:
    for text in package.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if _normal(requirement.name) == "torch" and "extra" not in str(requirement.marker or ""):
            return True
    return False


def _cuda_requirements(torch: Package, environment: Environment, machine: Machine) -> Iterator[Requirement]:
    version = environment.python.version
    facts = {
        "platform_system": {"linux": "Linux", "windows": "Windows"}.get(machine.os, machine.os),
        "sys_platform": {"linux": "linux", "windows": "win32"}.get(machine.os, machine.os),
        "platform_machine": machine.arch,
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "extra": "",
    }
    for text in torch.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if not _normal(requirement.name).startswith(("nvidia-", "cuda-toolkit")):
            continue
        if requirement.marker is None or version == "unknown" or requirement.marker.evaluate(facts):
            yield requirement


def _installed(environment: Environment, requirement: Requirement) -> Package:
    found = environment.package(_normal(requirement.name))
    assert found is not None
    return found


def _satisfied(specifier: SpecifierSet, version: str) -> bool:
    return specifier.contains(version, prereleases=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
