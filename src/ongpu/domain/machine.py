"""What a machine is, and what of it could not be read."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ongpu.domain.arch import ComputeCapability


class Modules(enum.StrEnum):
    """Flavor of the NVIDIA kernel modules on Linux."""

    OPEN = "open"
    PROPRIETARY = "proprietary"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Something that was asked for and could not be read, with the reason.

    ``code`` is the foreign code where there is one (``NVML_ERROR_NO_PERMISSION``, ``timeout``).
    """

    what: str
    reason: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as NVML (or a description) names it. ``memory_bytes`` is the total."""

    name: str
    uuid: str | None = None
    compute_capability: ComputeCapability | None = None
    memory_bytes: int | None = None
    pci_bus_id: str | None = None
    mig: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The NVIDIA driver.

    ``kernel_mode`` is NVML's ``580.159.04``; ``cuda`` the CUDA driver version libcuda answers, ``13.0``.
    ``None`` where it could not be read: see ``Machine.unavailable``. ``loaded`` says whether the kernel module
    of NVIDIA is loaded (None: not readable, as on Windows and WSL).
    """

    kernel_mode: str | None = None
    cuda: str | None = None
    modules: Modules = Modules.UNKNOWN
    loaded: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLibrary:
    """A file of the driver that answered: ``libnvidia-ml`` or ``libcuda``.

    ``version`` is the one in the file's name, ``580.159.04`` (None where the name has none, as in WSL). ``sha256`` is
    None where the file could not be read.
    """

    name: str
    path: str
    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonInstall:
    """One interpreter: its path, version ``3.12.3``, and whether it is a free-threaded build."""

    path: str
    version: str
    free_threaded: bool = False
    environment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine as it was read, or as it was described.

    ``os`` is ``linux``, ``windows`` or ``macos``; ``arch`` is ``x86_64`` or ``aarch64``. ``variables`` holds
    the environment variables that hide, order or inject into the GPU (``CUDA_VISIBLE_DEVICES`` ...), as set.
    ``nvidia_hardware`` says whether an NVIDIA GPU is on the PCI bus whatever the driver says (None: not
    readable); ``device_files`` whether ``/dev`` has what a process needs to reach one (None: not readable, or
    not the way of this platform). ``cuda_visible`` lists the UUIDs that libcuda itself listed, in CUDA's
    order, under ``variables`` (None: not asked, or no answer). ``libraries`` are the driver's files that answered,
    as far as the platform tells. ``simulated`` is true for a description or a recording: nothing of it was
    observed here.
    """

    os: str
    arch: str
    glibc: str | None = None
    os_release: str | None = None
    python: PythonInstall | None = None
    pythons: tuple[PythonInstall, ...] = ()
    devices: tuple[Device, ...] = ()
    driver: Driver = field(default_factory=Driver)
    wsl: bool = False
    container: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    nvidia_hardware: bool | None = None
    device_files: bool | None = None
    cuda_visible: tuple[str, ...] | None = None
    libraries: tuple[DriverLibrary, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    simulated: bool = False
