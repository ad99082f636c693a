"""What landed, against what was decided. Pure: the environment as read, never what the installer said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ongpu.domain.build import Decision
from ongpu.domain.environment import Environment
from ongpu.domain.verdict import Cause, Outcome
from ongpu.install.request import Installed


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """Proven: the environment holds what was decided. Refuted otherwise, with the cause."""

    outcome: Outcome
    reason: str
    cause: Cause | None = None


def judge(environment: Environment, *, decision: Decision, installed: Iterable[Installed]) -> Judgment:
    """Whether ``environment`` holds the decided torch, and every package that was to be installed."""
    if not environment.ran:
        return _refuted(Cause.PYTHON_ENV, f"its Python cannot run: {environment.problems[0]}")
    torch = environment.torch
    if torch is None:
        return _refuted(Cause.PYTHON_ENV, "; ".join(environment.problems) or "torch did not land in it")
    public, tag = str(decision.torch).partition("+")[0], str(decision.cuda_tag)
    if torch.cpu_only:
        return _refuted(Cause.CPU_ONLY_TORCH, f"torch {torch.version} in it is a CPU-only build, decided was {tag}")
    if torch.cuda_tag != tag:
        return _refuted(
            Cause.CUDA_VERSION_MISMATCH, f"torch {torch.version} in it is built for {torch.cuda_tag}, decided was {tag}"
        )
    if torch.public_version != public:
        return _refuted(Cause.PYTHON_ENV, f"torch {torch.version} landed, decided was {public}+{tag}")
    versions = {one.name: one.version for one in environment.packages}
    for one in installed:
        got = versions.get(str(canonicalize_name(one.name)))
        if got is None:
            return _refuted(Cause.PYTHON_ENV, f"{one.name} {one.version or ''} is missing from it")
        if one.version is not None and got != one.version:
            return _refuted(Cause.PYTHON_ENV, f"{one.name} {got} is in it, {one.version} was to be installed")
    unmet = _unmet(environment, public)
    if unmet is not None:
        return _refuted(Cause.PYTHON_ENV, unmet)
    if environment.problems:
        return _refuted(Cause.PYTHON_ENV, "; ".join(environment.problems))
    return Judgment(
        outcome=Outcome.PROVEN,
        reason=f"read back: torch {torch.version} for CUDA runtime {torch.runtime}, {len(versions)} packages",
    )


def _unmet(environment: Environment, public: str) -> str | None:
    """The first requirement on torch that the decided version does not meet, whoever states it.

    Compared without the local label: which build it is was decided, and checked above.
    """
    version = environment.python.version
    markers = {"extra": "", "python_full_version": version, "python_version": ".".join(version.split(".")[:2])}
    for package in environment.packages:
        for text in package.requires:
            if not text.lower().startswith("torch"):
                continue
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.name.lower() != "torch" or (wanted.marker and not wanted.marker.evaluate(markers)):
                continue
            specifier = SpecifierSet(",".join(str(one).partition("+")[0] for one in wanted.specifier))
            if not specifier.contains(public, prereleases=True):
                return f"{package.name} {package.version} wants {text}, {public} is in it"
    return None


def _refuted(cause: Cause, reason: str) -> Judgment:
    return Judgment(outcome=Outcome.REFUTED, reason=reason, cause=cause)
