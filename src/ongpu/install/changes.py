"""What was asked for and not done as asked: who wanted it, what was done, why. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ongpu.domain.environment import Environment, Package
from ongpu.install.policy import PolicyRow, row_for
from ongpu.install.project import Project
from ongpu.install.request import Change
from ongpu.install.resolve import Resolution

_ROW: Final = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[|==|@|$)")


# jax==0.9
#     # via
#     #   accelerant
#     #   -r requirements.in
# jaxlib==0.9
#     # via jax
def wanted_by_graph(annotated: str) -> dict[str, tuple[str, ...]]:
    """Who wants what, from ``uv pip compile``'s annotated requirements: name -> names of those who ask."""
    graph: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in annotated.splitlines():
        if line.startswith("    #"):
            text = line.strip().lstrip("#").strip()
            text = text.removeprefix("via").strip() if text.split(" ")[0] == "via" else text
            if current is not None and text and not text.startswith(("-r ", "-c ", "-e ", "--")):
                current.append(text.split(" ")[0])
            continue
        if line.startswith(" "):  # a hash of the row above
            continue
        found = _ROW.match(line)
        current = graph.setdefault(str(canonicalize_name(found["name"])), []) if found else None
    return {name: tuple(dict.fromkeys(by)) for name, by in graph.items()}


def static_graph(
    project: Project | None, requirements: Iterable[str], *, markers: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Who wants what on this target, as far as the project's own file and the given requirements say."""
    graph: dict[str, list[str]] = {}
    wanted = [(one.requirement, one.by) for one in project.wanted] if project else []
    wanted += [(text, "the command line") for text in requirements]
    for text, by in wanted:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(dict(markers)):
            graph.setdefault(str(canonicalize_name(one.name)), []).append(f"{by} ({text})")
    return {name: tuple(dict.fromkeys(by)) for name, by in graph.items()}


def installed_graph(packages: Iterable[Package], *, markers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Who wants what among installed packages, by their metadata, extras left aside.

    :param markers: the marker environment of the *target* Python.
    """
    graph: dict[str, list[str]] = {}
    for package in packages:
        for text in package.requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.marker is None or wanted.marker.evaluate({**markers, "extra": ""}):
                graph.setdefault(str(canonicalize_name(wanted.name)), []).append(package.name)
    return {name: tuple(dict.fromkeys(by)) for name, by in graph.items()}


def merged(*graphs: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Several graphs as one; a plain name is dropped where the same asker is there with its requirement."""
    whole: dict[str, list[str]] = {}
    for graph in graphs:
        for name, askers in graph.items():
            whole.setdefault(name, []).extend(askers)
    result = {}
    for name, by in whole.items():
        told = {str(canonicalize_name(re.split(r"[ \[]", one)[0])) for one in by if "(" in one}
        result[name] = tuple(dict.fromkeys(one for one in by if "(" in one or one not in told))
    return result


def all_changes(
    resolution: Resolution,
    *,
    project: Project | None,
    requirements: Iterable[str],
    rows: tuple[PolicyRow, ...],
    allowed: frozenset[str],
    found: Environment | None,
    torch_from: str,
    markers: Mapping[str, str],
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """What was excluded, and what was overridden.

    :param found: the environment after the install, whose metadata knows more askers than the project's file.
    :param torch_from: the index of torch's family, secrets removed.
    :param markers: the marker environment of the target Python.
    """
    graph = merged(
        static_graph(project, requirements, markers=markers),
        wanted_by_graph(resolution.annotated or ""),
        installed_graph(found.packages, markers=markers) if found is not None else {},
    )
    left_out = excluded(graph, rows=rows, allowed=allowed)
    overridden = list(resolution.replaced)
    for one in resolution.family:
        if one.name in {locked.name for locked in resolution.locked}:
            reason = f"pinned to this build from {torch_from}, so that no requirement can swap it"
            version = one.version or "of unknown version"
            overridden.append(
                Change(name=one.name, wanted_by=graph.get(one.name, ()), action="pinned", reason=f"{version}: {reason}")
            )
    names = {one.name for one in resolution.family}
    for source in project.sources if project else ():
        if source in names:
            by = (f"[tool.uv.sources] of {project.name or project.folder.name}",) if project else ()
            reason = f"the project sends it to an index of its own; it comes from {torch_from}, as decided for this GPU"
            overridden.append(Change(name=source, wanted_by=by, action="source-ignored", reason=reason))
    return left_out, tuple(overridden)


def excluded(
    graph: Mapping[str, tuple[str, ...]], *, rows: tuple[PolicyRow, ...], allowed: frozenset[str]
) -> tuple[Change, ...]:
    """The rows of the policy that somebody wanted: left out, or let in by ``--allow``."""
    changes = []
    for name in sorted(graph):
        row = row_for(name, rows)
        if row is None:
            continue
        action = "allowed" if name in allowed else "excluded"
        reason = f"--allow {name}" if name in allowed else row.reason
        changes.append(Change(name=name, wanted_by=graph[name], action=action, reason=reason))
    return tuple(changes)
