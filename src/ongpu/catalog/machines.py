"""Described machines: what a machine of a common kind looks like, for planning and rehearsing without one.

Each is a JSON file in ``catalog/machines``, named by its machine: ``rtx5090-linux.json``. Nothing in them was
observed: every :class:`Machine` made here is ``simulated``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ongpu.catalog.read import CatalogError
from ongpu.domain.arch import ComputeCapability
from ongpu.domain.machine import Device, Driver, Machine, Modules, PythonInstall
from ongpu.errors import UsageError

_GIB = 1 << 30


def described_machines() -> tuple[str, ...]:
    """The names of every described machine, sorted."""
    folder = resources.files("ongpu.catalog") / "machines"
    return tuple(sorted(one.name.removesuffix(".json") for one in folder.iterdir() if one.name.endswith(".json")))


def described_machine(name: str) -> Machine:
    """A described machine by name. Raises :class:`UsageError` with the nearest names for an unknown one."""
    known = described_machines()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise UsageError(f"There is no described machine {name!r}.", next_step=f"Try one of: {', '.join(near)}.")
    text = (resources.files("ongpu.catalog") / "machines" / f"{name}.json").read_text(encoding="utf-8")
    try:
        return machine_from(json.loads(text))
    except (ValueError, KeyError, TypeError) as wrong:
        raise CatalogError(f"machines/{name}.json: {wrong!r}.") from wrong


def machine_from(document: Mapping[str, Any]) -> Machine:
    """A machine from its JSON document. Raises :class:`KeyError` or :class:`ValueError` for a broken one."""
    driver = document["driver"]
    return Machine(
        os=document["os"],
        arch=document["arch"],
        glibc=document.get("glibc"),
        os_release=document.get("os_release"),
        python=PythonInstall(path="python", version=document["python"]) if document.get("python") else None,
        devices=tuple(_device(one, index) for index, one in enumerate(document["devices"])),
        driver=Driver(
            kernel_mode=driver.get("kernel_mode"),
            cuda=driver.get("cuda"),
            modules=Modules(driver.get("modules", "unknown")),
        ),
        wsl=bool(document.get("wsl", False)),
        nvidia_hardware=True if document["devices"] else None,
        simulated=True,
    )


def _device(document: Mapping[str, Any], index: int) -> Device:
    return Device(
        name=document["name"],
        uuid=f"GPU-00000000-0000-0000-0000-{index:012d}",
        compute_capability=ComputeCapability.parse(document["compute_capability"]),
        memory_bytes=int(document["memory_gib"]) * _GIB,
    )
