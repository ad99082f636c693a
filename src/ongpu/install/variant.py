"""Requirements that name one variant of torch (``torch==2.14.1+cpu``, or a wheel's URL): replaced, or refused. Pure.

A local label or a URL picks a build, and which build runs on this GPU is not the project's to know. Where the
public version is the decided one, only the variant differs and the decided one takes its place. Where it is
another, that is a contradiction, and the user decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError
from ongpu.install.lock import Locked
from ongpu.install.project import Project
from ongpu.install.request import Change


def replaced_variants(
    project: Project | None, requirements: Iterable[str], *, family: Iterable[Locked], markers: Mapping[str, str]
) -> tuple[Change, ...]:
    """The requirements whose variant gives way to the decided one.

    :param markers: the marker environment of the target.
    :raises BlockedError: one names another public version.
    """
    decided = {one.name: Version(one.version) for one in family if one.version is not None}
    wanted = [(one.requirement, one.by) for one in project.wanted] if project is not None else []
    wanted += [(text, "the command line") for text in requirements]
    changes = []
    for text, by in wanted:
        requirement = Requirement(text)
        name = str(canonicalize_name(requirement.name))
        if name not in decided or (requirement.marker is not None and not requirement.marker.evaluate(dict(markers))):
            continue
        named = _named_version(requirement)
        if named is None:
            continue
        right = decided[name]
        if named.public != right.public:
            raise BlockedError(
                f"{by} asks for the build {text!r}, but {name} {right} was decided for this GPU.",
                next_step=f"Ask for {name}=={named.public} without naming a build and plan again, or drop the version.",
                cause=Cause.PYTHON_ENV.value,
                lines=(text,),
            )
        if named != right:
            reason = f"{text!r} names a build; {right} is the same version in the build decided for this GPU"
            changes.append(Change(name=name, wanted_by=(by,), action="variant-replaced", reason=reason))
    return tuple(changes)


def _named_version(requirement: Requirement) -> Version | None:
    """The version of the one build a requirement names, or ``None`` where it names no single build."""
    if requirement.url is not None:
        try:
            return parse_wheel_filename(unquote(urlsplit(requirement.url).path.rpartition("/")[2]))[1]
        except InvalidWheelFilename:
            return None
    for one in requirement.specifier:
        if one.operator in {"==", "==="} and "+" in one.version:
            try:
                return Version(one.version)
            except InvalidVersion:
                return None
    return None
