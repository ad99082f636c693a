"""The door to libcuda: asked in a child with a time limit, never loaded into this process.

``cuInit`` can hang in a broken driver, can crash in a wrong library, and fixes the device list of the process that
called it: each a reason to ask elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ongpu.domain.arch import ComputeCapability, RuntimeVersion
from ongpu.machine.driver_check import LIBCUDA, START_TIMEOUT_S, read_answer, run_check
from ongpu.machine.process import Processes


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDevice:
    """One device as libcuda lists it. ``uuid`` is without the prefix ``GPU-``; ``None`` fields were refused."""

    name: str | None
    uuid: str | None
    compute_capability: ComputeCapability | None
    memory_bytes: int | None
    pci_bus_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LibcudaReading:
    """What libcuda answered.

    :param version: the CUDA driver version; ``None`` where libcuda would not say.
    :param init: the result of ``cuInit``: 0 is success, and ``init_name`` libcuda's name of it.
    :param devices: in CUDA's order, under the variables the child was given; empty unless ``init`` is 0.
    :param library: the file that was loaded; ``None`` where the platform does not tell.
    """

    version: RuntimeVersion | None
    init: int
    init_name: str
    devices: tuple[CudaDevice, ...] = ()
    library: str | None = None


def ask_libcuda(
    processes: Processes, *, python: Path, environment: Mapping[str, str], timeout_s: float = START_TIMEOUT_S
) -> LibcudaReading:
    """What libcuda of this machine says under ``environment``.

    :param python: any Python 3.9+; it needs nothing installed.
    :raises DoorError: door ``libcuda``; code ``not-found``, ``not-libcuda``, ``timeout``, ``crashed`` or
        ``unreadable``.
    """
    done = run_check(processes, LIBCUDA, python=python, environment=environment, timeout_s=timeout_s)
    found = read_answer(done, door="libcuda", timeout_s=timeout_s)
    version = found.get("version")
    devices = found.get("devices")
    return LibcudaReading(
        version=_version(version) if isinstance(version, int) else None,
        init=_int(found.get("init"), -1),
        init_name=str(found.get("init_name")),
        devices=tuple(_device(one) for one in devices if isinstance(one, dict)) if isinstance(devices, list) else (),
        library=_text(found.get("library")),
    )


def _version(number: int) -> RuntimeVersion:
    return RuntimeVersion(major=number // 1000, minor=number % 1000 // 10)


def _device(found: dict[str, object]) -> CudaDevice:
    capability = found.get("compute_capability")
    memory = found.get("memory_bytes")
    return CudaDevice(
        name=_text(found.get("name")),
        uuid=_text(found.get("uuid")),
        compute_capability=ComputeCapability.parse(capability) if isinstance(capability, str) else None,
        memory_bytes=memory if isinstance(memory, int) else None,
        pci_bus_id=_text(found.get("pci_bus_id")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _int(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
