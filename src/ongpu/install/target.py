"""For which platform a resolution is made: this one, or another that was described. Pure.

uv knows platforms by the names below (``uv pip compile --help``, 0.13.9); a manylinux name stands for a glibc and all
newer ones.
"""

from __future__ import annotations

from typing import Final

from packaging.markers import default_environment

from ongpu.domain.machine import Machine
from ongpu.errors import UsageError

_MANYLINUX: Final = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
_WINDOWS: Final = {"x86_64": "AMD64", "aarch64": "ARM64"}


def platform_of(machine: Machine) -> str:
    """uv's name for a machine's platform: ``x86_64-manylinux_2_35``, ``x86_64-pc-windows-msvc``.

    :raises UsageError: no NVIDIA build of torch exists for it, or its glibc is not known.
    """
    if machine.arch not in _WINDOWS:
        raise UsageError(
            f"{machine.arch!r} is no CPU architecture torch is built for.", next_step="Give x86_64 or aarch64."
        )
    match machine.os:
        case "windows":
            return f"{machine.arch}-pc-windows-msvc"
        case "linux":
            return f"{machine.arch}-manylinux_2_{_manylinux(machine.glibc)}"
        case _:
            raise UsageError(
                f"There is no NVIDIA GPU to install for on {machine.os}.",
                next_step="Lock for the machine that has one: --os linux or --os windows.",
            )


def _manylinux(glibc: str | None) -> int:
    major, _, minor = (glibc or "").partition(".")
    fitting = [one for one in _MANYLINUX if minor.isdigit() and one <= int(minor)]
    if major != "2" or not fitting:
        raise UsageError(
            f"{glibc!r} is not a glibc that wheels are made for.", next_step="Give it with --glibc, for example 2.35."
        )
    return max(fitting)


def platform_tags_of(platform: str) -> tuple[str, ...]:
    """The wheel platform tags that fit one of uv's platforms, best first (PEP 600; the older names where they fall)."""
    arch, _, rest = platform.partition("-")
    if "windows" in rest:
        return ("win_amd64" if arch == "x86_64" else "win_arm64",)
    older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags = []
    for minor in range(int(rest.rpartition("_")[2]), 4, -1):
        tags.append(f"manylinux_2_{minor}_{arch}")
        if minor in older:
            tags.append(f"{older[minor]}_{arch}")
    return (*tags, f"linux_{arch}")


def markers_for(platform: str | None, *, python: str | None) -> dict[str, str]:
    """The marker environment of a target; of this machine where ``platform`` is ``None``.

    :param python: ``3.12`` or ``3.12.3``; ``None`` is the Python that runs ongpu.
    """
    markers = {name: str(value) for name, value in default_environment().items()}
    markers["extra"] = ""
    if platform is not None:
        arch = platform.partition("-")[0]
        windows = "windows" in platform
        markers |= {
            "os_name": "nt" if windows else "posix",
            "platform_machine": _WINDOWS[arch] if windows else arch,
            "platform_system": "Windows" if windows else "Linux",
            "sys_platform": "win32" if windows else "linux",
        }
    if python is not None and python.replace(".", "").isdigit():
        parts = python.split(".")
        markers |= {"python_version": ".".join(parts[:2]), "python_full_version": ".".join([*parts, "0"][:3])}
    return markers
