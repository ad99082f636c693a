"""The outside, as the joining rooms are handed it, and what of it must not be told."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ongpu.catalog import Catalog, load
from ongpu.domain.verdict import Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import DoorError
from ongpu.evidence.redact import Identity, Redactor
from ongpu.machine.clock import Clock
from ongpu.machine.host import Host
from ongpu.machine.interrupts import Interrupts
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Processes


class Pages(Protocol):
    """The pages of a bundle, made from observations alone (floor 6 writes them)."""

    def env_info(self, observations: Sequence[Observation]) -> str:
        """``env_info.txt``."""
        ...

    def verdict(self, observations: Sequence[Observation], verdict: Verdict) -> str:
        """``verdict.json``."""
        ...

    def readme(self, observations: Sequence[Observation], verdict: Verdict, files: Sequence[str]) -> str:
        """``README.md``."""
        ...

    def issue(self, folder: Path) -> str:
        """``blocked/report.md``: the bundle in ``folder``, not sealed yet, as the text of an issue."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """The outside, as the joining rooms are handed it. ``catalog`` reads the facts that plans rest on."""

    nvml: Callable[[], Nvml]
    processes: Processes
    host: Host
    clock: Clock
    cwd: Path
    pages: Pages
    interrupts: Interrupts = field(default_factory=Interrupts)
    catalog: Callable[[], Catalog] = load


def redactor_for(doors: Doors, *, pseudonymous: bool, target: Path | None = None) -> Redactor:
    """The redactor of a run: secrets always, identities on request.

    :param target: the interpreter of an adopted environment, whose folder is an identity too.
    """
    environment = doors.host.environment()
    identity = _identity(doors, environment, target) if pseudonymous else None
    return Redactor(environment, identity=identity, is_path=doors.host.exists)


def _identity(doors: Doors, environment: Mapping[str, str], target: Path | None) -> Identity:
    uuids: list[str] = []
    try:
        nvml = doors.nvml()
        try:
            uuids = [device.uuid for device in nvml.devices()]
        finally:
            nvml.close()
    except DoorError:
        uuids = []  # no NVML, no UUIDs to replace: the probe records why it cannot be read
    try:
        host: tuple[str, ...] = (doors.host.read_text("/proc/sys/kernel/hostname").strip(),)
    except DoorError:
        host = tuple(filter(None, (environment.get("HOSTNAME"), environment.get("COMPUTERNAME"))))
    return Identity(
        hosts=host,
        user=environment.get("USER") or environment.get("USERNAME"),
        home=environment.get("HOME") or environment.get("USERPROFILE"),
        cwd=str(doors.cwd),
        temp=environment.get("TMPDIR") or environment.get("TEMP") or _TEMP,
        paths=tuple(_folders(doors, target)),
        uuids=tuple(form for uuid in uuids for form in (uuid, uuid.removeprefix("GPU-"))),
        salt=secrets.token_hex(16),
    )


# A folder such as /usr is everybody's and names nobody.
_COMMON_PARTS = 2
# Where temporary folders are made when no variable says otherwise (POSIX).
_TEMP = "/tmp"  # noqa: S108 - a name to replace in text; nothing is written there


def _folders(doors: Doors, target: Path | None) -> Iterator[tuple[str, str]]:
    """The folders of the target environment and of the tool's own, as named and as they really are."""
    known = [(target, "<env>"), (Path(doors.host.platform().executable), "<ongpu>")]
    for python, word in known:
        for named in (python, Path(doors.host.real_path(str(python)))) if python is not None else ():
            folder = named.parent.parent
            if len(folder.parts) > _COMMON_PARTS:
                yield str(folder), word
