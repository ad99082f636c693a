"""What is known of a machine, made ready for judging: versions parsed, gaps named as assumptions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ongpu.catalog import BranchRow, Catalog, GenerationRow, Version
from ongpu.domain.arch import ComputeCapability, RuntimeVersion
from ongpu.domain.machine import Machine
from ongpu.plan.request import Request, python_tag

# A branch alone ("580") stands for its newest release.
_NEWEST_OF_BRANCH = 999
DEFAULT_PYTHON = "3.12"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """One GPU of the machine with its capability, or ``None`` where neither machine nor catalog knows it."""

    index: int
    name: str
    uuid: str | None
    capability: ComputeCapability | None
    generation: GenerationRow | None

    @property
    def label(self) -> str:
        """``NVIDIA H100 80GB HBM3 (9.0)``."""
        return f"{self.name} ({self.capability})" if self.capability else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A machine as the axes need it.

    ``windows_driver`` is true where the driver is the Windows one: on Windows, and under WSL, where only the
    host's driver counts. ``python`` is a tag (``3.12``, ``3.13t``). ``assumptions`` names what was not given.
    """

    machine: Machine
    devices: tuple[KnownDevice, ...]
    driver: Version | None
    driver_text: str | None
    driver_cuda: RuntimeVersion | None
    branch: BranchRow | None
    windows_driver: bool
    python: str
    python_known: bool
    glibc: Version | None

    @property
    def capabilities(self) -> tuple[ComputeCapability, ...]:
        """The distinct capabilities, highest first."""
        return tuple(sorted({one.capability for one in self.devices if one.capability}, reverse=True))


def gather(machine: Machine, *, catalog: Catalog, request: Request) -> Facts:
    """Read a machine. Values that cannot be read count as not known, which the axes then say."""
    driver = _version(machine.driver.kernel_mode)
    branch = catalog.branch(driver) if driver else None
    cuda = _cuda(machine.driver.cuda)
    if cuda is None and branch is not None:
        cuda = branch.cuda
    if branch is None and cuda is not None:
        older = [one for one in catalog.branches if (one.cuda.major, one.cuda.minor) <= (cuda.major, cuda.minor)]
        branch = older[-1] if older else None
    python, known = _python(machine, request)
    return Facts(
        machine=machine,
        devices=tuple(_device(machine, index, catalog) for index in range(len(machine.devices))),
        driver=driver,
        driver_text=machine.driver.kernel_mode,
        driver_cuda=cuda,
        branch=branch,
        windows_driver=machine.os == "windows" or machine.wsl,
        python=python,
        python_known=known,
        glibc=_plain_version(machine.glibc),
    )


def _device(machine: Machine, index: int, catalog: Catalog) -> KnownDevice:
    device = machine.devices[index]
    capability = device.compute_capability
    if capability is None and (row := catalog.known_gpu(device.name)) is not None:
        capability = row.compute_capability
    if capability is not None and capability.number == 101:
        capability = ComputeCapability(11, 0)  # Thor's name before CUDA 13
    return KnownDevice(
        index=index,
        name=device.name,
        uuid=device.uuid,
        capability=capability,
        generation=catalog.generation(capability) if capability else None,
    )


def _python(machine: Machine, request: Request) -> tuple[str, bool]:
    if request.python is not None:
        return python_tag(request.python), True
    if machine.python is not None:
        return python_tag(machine.python.version, free_threaded=machine.python.free_threaded), True
    return DEFAULT_PYTHON, False


def _version(text: str | None) -> Version | None:
    parsed = _plain_version(text)
    if parsed is not None and len(parsed) == 1:
        return (*parsed, _NEWEST_OF_BRANCH)
    return parsed


def _plain_version(text: str | None) -> Version | None:
    found = re.match(r"\d+(?:\.\d+)*", text or "")
    return tuple(int(part) for part in found[0].split(".")) if found else None


def _cuda(text: str | None) -> RuntimeVersion | None:
    try:
        return RuntimeVersion.parse(text) if text else None
    except ValueError:
        return None


def dotted(version: Version) -> str:
    """``525.60.13`` for its parts: NVIDIA writes all but the first with two digits."""
    return ".".join(f"{part:02d}" if index else str(part) for index, part in enumerate(version))
