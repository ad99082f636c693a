"""What the host's files say. Each parser takes text; a real sample stands above it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ongpu.domain.machine import Modules

# /proc/driver/nvidia/version, open and proprietary modules:
#   NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@...)  Wed ...
#   NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024
#   GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
_NVRM = re.compile(
    r"^NVRM version:\s+NVIDIA UNIX\s+(?:(Open) Kernel Module for \S+|\S+ Kernel Module)\s+(\d+(?:\.\d+)+)\b", re.M
)


def kernel_modules(text: str) -> tuple[Modules, str] | None:
    """The flavor and version of NVIDIA's kernel modules; ``None`` for a text of another shape."""
    found = _NVRM.search(text)
    if found is None:
        return None
    return (Modules.OPEN if found[1] else Modules.PROPRIETARY), found[2]


# /etc/os-release: PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
def os_release(text: str) -> str | None:
    """``PRETTY_NAME``, else name and version; ``None`` where the file names neither."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            fields[name] = value.strip().strip("\"'")
    if fields.get("PRETTY_NAME"):
        return fields["PRETTY_NAME"]
    return " ".join(filter(None, (fields.get("NAME"), fields.get("VERSION_ID")))) or None


# /proc/sys/kernel/osrelease: 5.15.167.4-microsoft-standard-WSL2
def is_wsl(kernel_release: str) -> bool:
    """Whether this kernel is that of the Windows Subsystem for Linux."""
    return "microsoft" in kernel_release.lower()


# /proc/1/cgroup of version 1: 12:devices:/docker/3f2b...   /kubepods/besteffort/pod...   of version 2: 0::/
def container(*, environment: Mapping[str, str], marks: frozenset[str], cgroup: str) -> str | None:
    """``kubernetes``, ``podman``, ``docker``, ``apptainer``, ``lxc``, another engine's own word, or ``None``.

    :param marks: which of ``/.dockerenv`` and ``/run/.containerenv`` exist.
    :param cgroup: ``/proc/1/cgroup``, empty where it could not be read.
    """
    if "KUBERNETES_SERVICE_HOST" in environment or "kubepods" in cgroup:
        return "kubernetes"
    if "APPTAINER_CONTAINER" in environment or "SINGULARITY_CONTAINER" in environment:
        return "apptainer"
    if "/run/.containerenv" in marks:
        return "podman"
    if "/.dockerenv" in marks or re.search(r"[/-]docker[/-]", cgroup):
        return "docker"
    if environment.get("container"):  # set by podman, lxc and systemd-nspawn for all their processes
        return environment["container"]
    return "lxc" if "/lxc" in cgroup else None


# /proc/modules: nouveau 2740224 0 - Live 0x0000000000000000
def loaded_modules(text: str) -> frozenset[str]:
    """The names of the loaded kernel modules."""
    return frozenset(line.split()[0] for line in text.splitlines() if line.strip())


# /sys/bus/pci/devices/0000:01:00.0/vendor: 0x10de   class: 0x030000 (VGA), 0x030200 (3D controller)
def is_nvidia_display(*, vendor: str, device_class: str) -> bool:
    """Whether a PCI device is a GPU of NVIDIA's, and not the audio or USB function beside one."""
    return vendor.strip().lower() == "0x10de" and device_class.strip().lower().startswith("0x03")


# /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04   in WSL: /usr/lib/wsl/drivers/nv_dispi.inf_.../libcuda.so.1.1
def version_in_name(path: str) -> str | None:
    """The driver version in the name of one of its libraries; ``None`` for a bare interface number."""
    found = re.search(r"\.so\.(\d{3,}(?:\.\d+)+)\Z", path)
    return found[1] if found else None
