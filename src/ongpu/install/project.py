"""The user's project, read without running it: its name, its extras, what it asks for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from ongpu.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One requirement and who states it, for example ``backend[training]``."""

    requirement: str
    name: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project folder.

    ``name`` and ``wanted`` come from ``pyproject.toml``; both are empty where that file leaves them to a build
    script (``static`` is then false, and only the resolver learns them). ``sources`` names the packages that
    ``[tool.uv.sources]`` sends to a place of their own.
    """

    folder: Path
    name: str | None
    extras: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    sources: tuple[str, ...]
    static: bool

    def requirement_of(self, name: str, *, markers: Mapping[str, str] | None = None) -> str | None:
        """What the project itself asks of ``name``, joined, for the planner: ``torch<2.10,>=2.0``.

        A local label (``==2.14.1+cpu``) names a build, which is the planner's choice: it is left off.

        :param markers: the marker environment of the target (default: this Python on this machine).
        """
        environment = dict(markers) if markers is not None else {"extra": ""}
        asked = [Requirement(one.requirement) for one in self.wanted if one.name == name]
        asked = [one for one in asked if one.marker is None or one.marker.evaluate(environment)]
        if not asked:
            return None
        return name + ",".join(sorted({str(part).partition("+")[0] for one in asked for part in one.specifier}))


def read_project(folder: Path, *, extra: str | None) -> Project:
    """Read a project folder.

    :param extra: names of extras, separated by commas.
    :raises UsageError: no such folder, nothing to install in it, unreadable, or an extra that it does not have.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(
            f"The project folder {str(folder)!r} {what}.", next_step="Give the folder that holds its pyproject.toml."
        )
    folder = folder.resolve()
    file = folder / "pyproject.toml"
    script = (folder / "setup.py").is_file() or (folder / "setup.cfg").is_file()
    if not file.is_file():
        if not script:
            raise UsageError(
                f"{str(folder)!r} has neither pyproject.toml nor setup.py, so there is nothing to install.",
                next_step=_next_step_for(folder),
            )
        return Project(folder=folder, name=None, extras=_asked(extra), wanted=(), sources=(), static=False)
    table = _load(file)
    project = table.get("project")
    if project is None and not script and "build-system" not in table and "poetry" not in table.get("tool", {}):
        raise UsageError(
            f"{str(file)!r} has no [project] table, so there is nothing to install.",
            next_step="Add [project] with name and version, or give the folder of the package itself.",
        )
    sources = tuple(sorted(canonicalize_name(one) for one in table.get("tool", {}).get("uv", {}).get("sources", {})))
    if not isinstance(project, dict):
        return Project(folder=folder, name=None, extras=_asked(extra), wanted=(), sources=sources, static=False)
    return _from_table(folder, project, sources=sources, extra=extra)


def _next_step_for(folder: Path) -> str:
    below = sorted(str(one.parent.relative_to(folder)) for one in folder.glob("*/pyproject.toml"))
    if below:
        return f"Did you mean --project {folder / below[0]}?"
    if (folder / "requirements.txt").is_file():
        return "It has a requirements.txt: add a pyproject.toml with a [project] table that lists those packages."
    return "Give the folder that holds the project's pyproject.toml."


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(file)!r} is not TOML: {error}.", next_step="Mend that line and try again.") from error
    except OSError as error:
        raise UsageError(
            f"{str(file)!r} cannot be read: {error.strerror}.", next_step="Make it readable and try again."
        ) from error


def _asked(extra: str | None) -> tuple[str, ...]:
    names = tuple(one.strip() for one in (extra or "").split(",") if one.strip())
    for name in names:
        if not _is_name(name):
            raise UsageError(f"{name!r} is not the name of an extra.", next_step="Name extras as --extra one,two.")
    return names


def _is_name(text: str) -> bool:
    """Whether a text can stand in a requirements file as a name and mean nothing else."""
    try:
        canonicalize_name(text, validate=True)
    except InvalidName:
        return False
    return text.isascii() and "\n" not in text


def _from_table(folder: Path, project: dict[str, Any], *, sources: tuple[str, ...], extra: str | None) -> Project:
    name = project.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError(
            f"[project] in {str(folder / 'pyproject.toml')!r} has no name.", next_step='Add name = "..." to it.'
        )
    if not _is_name(name):
        raise UsageError(
            f"{name!r} in {str(folder / 'pyproject.toml')!r} is not a package name.",
            next_step="Use letters, digits, dots, dashes and underscores.",
        )
    dynamic = project.get("dynamic", [])
    optional: dict[str, list[str]] = project.get("optional-dependencies", {})
    known = {str(canonicalize_name(one)): one for one in optional}
    asked = _asked(extra)
    for one in asked:
        if canonicalize_name(one) not in known and "optional-dependencies" not in dynamic:
            has = ", ".join(sorted(optional)) if optional else None
            raise UsageError(
                f"{name} has no extra {one!r}.",
                next_step=f"It has: {has}. Name one of them with --extra." if has else "It has none: drop --extra.",
            )
    wanted = [(one, name) for one in project.get("dependencies", [])]
    seen: set[str] = set()
    queue = [str(canonicalize_name(one)) for one in asked]
    while queue:
        key = queue.pop(0)
        if key in seen or key not in known:
            continue
        seen.add(key)
        for one in optional[known[key]]:
            wanted.append((one, f"{name}[{known[key]}]"))
            parsed = _parsed(one, folder)
            # An extra may name others of the same project: mine = ["backend[training,logging]"].
            if canonicalize_name(parsed.name) == canonicalize_name(name):
                queue += [str(canonicalize_name(inner)) for inner in parsed.extras]
    return Project(
        folder=folder,
        name=name,
        extras=asked,
        wanted=tuple(
            Wanted(requirement=one, name=str(canonicalize_name(_parsed(one, folder).name)), by=by) for one, by in wanted
        ),
        sources=sources,
        static="dependencies" not in dynamic and "optional-dependencies" not in dynamic,
    )


def _parsed(requirement: str, folder: Path) -> Requirement:
    try:
        return Requirement(requirement)
    except InvalidRequirement as error:
        raise UsageError(
            f"{requirement!r} in {str(folder / 'pyproject.toml')!r} is not a requirement.",
            next_step=f"Mend it ({str(error).splitlines()[0]}) and try again.",
        ) from error
