"""A machine from options: nothing of the machine this runs on leaks into it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ongpu.catalog import Catalog
from ongpu.domain.arch import ComputeCapability
from ongpu.domain.machine import Device, Driver, Machine, Modules, PythonInstall, Unavailable
from ongpu.errors import UsageError
from ongpu.plan.request import python_tag

_DRIVER = re.compile(r"\d{3}(\.\d{1,4}){0,2}\Z")
# Jetson, Thor (10.1 before CUDA 13) and GB10: chips with an Arm CPU of their own.
_ARM_ONLY = frozenset({53, 62, 72, 87, 101, 110, 121})
_CUDA = re.compile(r"\d{1,2}\.\d{1,2}\Z")


def described(
    *,
    catalog: Catalog,
    gpus: Sequence[str] = (),
    compute_capabilities: Sequence[str] = (),
    driver: str | None = None,
    os: str | None = None,
    arch: str | None = None,
    python: str | None = None,
    glibc: str | None = None,
    modules: str | None = None,
    wsl: bool = False,
) -> Machine:
    """Describe a machine.

    :param gpus: model names, one for each GPU; the same name twice is two GPUs.
    :param compute_capabilities: ``"12.0"`` for a GPU whose name does not matter.
    :param driver: ``580.95.05``, or a branch such as ``580``.
    :param os: ``linux`` or ``windows``; without it, Linux, which is then named as an assumption.
    :param arch: ``x86_64`` or ``aarch64``; without it, that of the GPUs where they exist for one only (GB10,
        Jetson, GH200), else ``x86_64``.
    :raises UsageError: for a value that cannot be read, saying what it is if that is known.
    """
    if not gpus and not compute_capabilities:
        raise UsageError("No GPU was named.", next_step="Give --gpu NAME or --compute-capability X.Y.")
    if os not in {None, "linux", "windows"}:
        raise UsageError(f"{os!r} is no system that PyTorch has CUDA builds for.", next_step="Use linux or windows.")
    if arch not in {None, "x86_64", "aarch64"}:
        raise UsageError(f"{arch!r} is no CPU architecture known here.", next_step="Use x86_64 or aarch64.")
    devices = [_named(one, catalog=catalog) for one in gpus] + [_bare(one) for one in compute_capabilities]
    assumed = []
    if os is None:
        assumed.append(Unavailable(what="os", reason="not given; assumed linux"))
    if arch is None:
        assumed.append(Unavailable(what="arch", reason=f"not given; assumed {_arch(devices)}"))
    return Machine(
        os=os or "linux",
        arch=arch or _arch(devices),
        glibc=_glibc(glibc) if glibc is not None else None,
        python=_python(python) if python is not None else None,
        devices=tuple(devices),
        driver=Driver(kernel_mode=_driver(driver) if driver is not None else None, modules=_modules(modules)),
        wsl=wsl,
        nvidia_hardware=True,
        unavailable=tuple(assumed),
        simulated=True,
    )


def _named(name: str, *, catalog: Catalog) -> Device:
    row = catalog.find_gpu(name)
    return Device(name=row.name, compute_capability=row.compute_capability, memory_bytes=row.memory_bytes)


def _bare(text: str) -> Device:
    try:
        capability = ComputeCapability.parse(text)
    except ValueError:
        number = re.match(r"(?:sm_?|compute_?)?(\d{1,2})(\d)[af]?\Z", text.strip())
        hint = f"Did you mean {number[1]}.{number[2]}?" if number else "Give one such as 12.0."
        raise UsageError(f"{text!r} is no compute capability.", next_step=hint) from None
    return Device(name=f"GPU of compute capability {capability}", compute_capability=capability)


def _arch(devices: Sequence[Device]) -> str:
    if devices and all(one.compute_capability and one.compute_capability.number in _ARM_ONLY for one in devices):
        return "aarch64"
    only_arm = re.compile(r"GB10|GH200|GB200|GB300|Jetson|Orin|Thor|Xavier|Rubin", re.IGNORECASE)
    return "aarch64" if devices and all(only_arm.search(one.name) for one in devices) else "x86_64"


def _driver(text: str) -> str:
    text = text.strip().removeprefix("R").removeprefix("v")
    if _DRIVER.match(text):
        return text
    if _CUDA.match(text):
        raise UsageError(
            f"{text!r} is a CUDA version (the ceiling that nvidia-smi prints), not a driver version.",
            next_step="Give the driver, such as 580.95.05; nvidia-smi --query-gpu=driver_version prints it.",
        )
    raise UsageError(
        f"{text!r} is no driver version.", next_step="Give one such as 580.95.05, or a branch such as 580."
    )


def _glibc(text: str) -> str:
    if not re.match(r"2\.\d{1,2}\Z", text.strip()):
        raise UsageError(f"{text!r} is no glibc version.", next_step="Give one such as 2.35: ldd --version.")
    return text.strip()


def _python(text: str) -> PythonInstall:
    tag = python_tag(text)
    return PythonInstall(path="python", version=tag.removesuffix("t"), free_threaded=tag.endswith("t"))


def _modules(text: str | None) -> Modules:
    if text is None:
        return Modules.UNKNOWN
    if text not in {"open", "proprietary"}:
        raise UsageError(f"{text!r} is no kernel-module flavor.", next_step="Use open or proprietary.")
    return Modules(text)
