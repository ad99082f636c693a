"""Whether a complete environment is the one that is asked for, so that a second run makes no second one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ongpu.install.project import Project
from ongpu.install.request import Change, Installed, InstallRequest

SCHEMA: Final = "ongpu/environment/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What ``ongpu-complete.json`` keeps of the install that made the environment."""

    schema: str
    asked: dict[str, str]
    made_at: str
    tool: str
    torch_index: str | None
    default_index: str | None
    installed: tuple[Installed, ...]
    excluded: tuple[Change, ...]
    overridden: tuple[Change, ...]
    lock_sha256: str | None


def asked(request: InstallRequest, *, project: Project | None) -> dict[str, str]:
    """What decides the content of an environment, by name, so that a difference can be told."""
    own = ".".join(map(str, sys.version_info[:2]))
    return {
        "torch": f"{request.decision.torch}",
        "CUDA tag": f"{request.decision.cuda_tag}",
        "Python": request.python or own,
        "project": str(project.folder) if project else "",
        "extra": ",".join(sorted(project.extras)) if project else "",
        "editable": str(request.editable) if project else "",
        "the project's own files": _digest(project.folder) if project else "",
        "requirements": "\n".join(sorted(request.requirements)),
        "allow": ",".join(sorted(request.allow)),
    }


def _digest(folder: Path) -> str:
    """SHA-256 over the files that say what a project needs."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "setup.py", "setup.cfg"):
        file = folder / name
        if file.is_file():
            digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def record_of(marker: Mapping[str, Any]) -> Record | None:
    """The record a marker holds; ``None`` for one of another version or a damaged one."""
    if marker.get("schema") != SCHEMA:
        return None
    try:
        return msgspec.convert(dict(marker), type=Record)
    except msgspec.ValidationError:
        return None


def differences(record: Record, wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The names of what differs between an environment's record and what is asked now."""
    return tuple(name for name in wanted if record.asked.get(name) != wanted[name])
