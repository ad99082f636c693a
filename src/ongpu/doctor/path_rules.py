"""Findings about what stands in front of the environment: PYTHONPATH, .pth files, LD_LIBRARY_PATH. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from ongpu.doctor.report import Finding, InstalledCode, Weight
from ongpu.domain.environment import Environment
from ongpu.domain.verdict import Cause

_MANY: Final = 4


def path_findings(environment: Environment, code: InstalledCode) -> Iterator[Finding]:
    """What another folder puts in the place of what is installed."""
    yield from _ahead(environment)
    yield from _added(environment)
    yield from _displaced(code)


def _ahead(environment: Environment) -> Iterator[Finding]:
    ahead = environment.ahead
    if ahead is None:
        return
    hidden = dict(ahead.hides)
    if ahead.torch is not None:
        alone = "torch" not in hidden
        yield Finding(
            weight=Weight.NOTES if alone else Weight.WARNS,
            cause=None if alone else Cause.PYTHON_ENV,
            title="torch comes from PYTHONPATH"
            if alone
            else "PYTHONPATH puts another torch in front of the installed one",
            reason=f"A program that is started here imports torch {ahead.torch.version} of {ahead.torch.path}, and "
            "that one was judged.",
            next_step=None if alone else "Unset PYTHONPATH, unless that torch is meant.",
            lines=(f"PYTHONPATH: {', '.join(ahead.folders)}",),
        )
    hiding = [one for one in ahead.packages if one.name != "torch" and hidden.get(one.name, one.version) != one.version]
    if hiding:
        names = ", ".join(f"{one.name} {one.version} (installed: {hidden[one.name]})" for one in hiding[:_MANY])
        more = f" and {len(hiding) - _MANY} more" if len(hiding) > _MANY else ""
        yield Finding(
            weight=Weight.NOTES,
            cause=None,
            title="PYTHONPATH hides installed packages",
            reason=f"A program that is started here imports {names}{more}.",
            lines=(f"PYTHONPATH: {', '.join(ahead.folders)}",),
        )


def _added(environment: Environment) -> Iterator[Finding]:
    torch = environment.torch
    if torch is None:
        return
    folder = next((one for one in environment.added if PurePath(torch.path).is_relative_to(one)), None)
    if folder is not None:
        yield Finding(
            weight=Weight.NOTES,
            cause=None,
            title="torch is imported from a folder that a .pth file names",
            reason=f"torch {torch.version} lies in {torch.path}, outside the environment's own folders of packages.",
        )


def _displaced(code: InstalledCode) -> Iterator[Finding]:
    if not code.displaced:
        return
    lines = tuple(f"{one.name}: {one.taken} in place of {one.own}" for one in code.displaced)
    lacking = [one for one in code.displaced if one.lacking]
    unread = [one for one in code.displaced if one.lacking is None]
    names = ", ".join(one.name for one in (lacking or code.displaced)[:_MANY])
    if lacking:
        first = lacking[0]
        missing = ", ".join((first.lacking or ())[:_MANY])
        yield Finding(
            weight=Weight.BLOCKS,
            cause=Cause.CUDA_VERSION_MISMATCH,
            title=f"LD_LIBRARY_PATH gives torch another {names}",
            reason=f"{first.taken} has no {missing}, which {PurePath(first.needed_by[0]).name} asks of it: the import "
            "ends with 'undefined symbol'.",
            next_step=f"Take {PurePath(first.taken).parent} out of LD_LIBRARY_PATH; torch brings its own.",
            lines=lines,
        )
        return
    yield Finding(
        weight=Weight.WARNS if unread else Weight.NOTES,
        cause=None,
        title="LD_LIBRARY_PATH gives torch other CUDA libraries than its own",
        reason=f"The loader takes {names} from there. "
        + (
            "What they give could not be read, and another version may not do."
            if unread
            else "All that torch's libraries ask of them by name is there."
        ),
        next_step=f"Take {PurePath(unread[0].taken).parent} out of LD_LIBRARY_PATH; torch brings its own."
        if unread
        else None,
        lines=lines,
    )
