"""The probe over recordings of real machines, and over hosts of other kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.machine import Machine, Modules
from ongpu.domain.verdict import Cause
from ongpu.errors import DoorError
from ongpu.machine.host import PlatformFacts
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Completed
from ongpu.machine.replay import Replay
from ongpu.machine.smi import nvidia_smi_text, read_nvml, render
from ongpu.probe import VARIABLES, probe

RECORDINGS = Path(__file__).parents[1] / "recordings"


def replayed(name: str) -> Machine:
    replay = Replay((RECORDINGS / name).read_text("utf-8"))
    return probe(
        nvml=replay.open_nvml,
        processes=replay.processes,
        host=replay,
        python=Path(replay.platform().executable) if name == "no_gpu.json" else None,
    )


def test_a_machine_without_a_gpu() -> None:
    machine = replayed("no_gpu.json")
    assert (machine.os, machine.arch, machine.glibc) == ("linux", "x86_64", "2.36")
    assert machine.devices == ()
    assert machine.nvidia_hardware is False
    assert machine.driver.modules is Modules.UNKNOWN
    assert {one.what for one in machine.unavailable} >= {"nvml", "libcuda", "kernel modules"}
    assert machine.python is not None
    assert machine.python.environment is not None
    assert len(machine.pythons) > 1
    versions = [tuple(map(int, one.version.split("."))) for one in machine.pythons]
    assert versions == sorted(versions, reverse=True)
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert blocked.cause is Cause.NO_GPU_VISIBLE


def test_a_call_that_was_not_recorded_fails() -> None:
    replay = Replay((RECORDINGS / "no_gpu.json").read_text("utf-8"))
    with pytest.raises(LookupError, match=r"no answer to host\.read_text"):
        replay.read_text("/etc/passwd")


class Described:
    """A host of files given as a mapping; a value that is an error code is raised."""

    def __init__(
        self, files: Mapping[str, str], *, system: str = "linux", environment: Mapping[str, str] | None = None
    ) -> None:
        self._files = files
        self._system = system
        self._environment = environment or {}

    def read_text(self, path: str) -> str:
        if path not in self._files:
            raise DoorError(door="file", code="missing", reason=f"{path}: No such file or directory")
        if self._files[path] == "permission":
            raise DoorError(door="file", code="permission", reason=f"{path}: Permission denied")
        return self._files[path]

    def exists(self, path: str) -> bool:
        return path in self._files

    def list_dir(self, path: str, *, prefix: str = "") -> tuple[str, ...]:
        below = {file[len(path) + 1 :].split("/")[0] for file in self._files if file.startswith(path + "/")}
        if not below:
            raise DoorError(door="file", code="missing", reason=f"{path}: No such file or directory")
        return tuple(sorted(name for name in below if name.startswith(prefix)))

    def real_path(self, path: str) -> str:
        return path

    def mapped_file(self, name: str) -> str | None:
        return None

    def sha256(self, path: str) -> str:
        raise DoorError(door="file", code="missing", reason=f"{path}: No such file or directory")

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def platform(self) -> PlatformFacts:
        return PlatformFacts(os=self._system, arch="x86_64", glibc="2.35", executable="python", version="3.12.3")


class NothingStarts:
    """Processes of a host where nothing can be started."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        raise DoorError(door="process", code="not-found", reason=f"{argv[0]}: No such file or directory")


def no_nvml() -> Nvml:
    raise DoorError(door="nvml", code="NVML_ERROR_LIBRARY_NOT_FOUND", reason="NVML Shared Library Not Found")


def described(
    files: Mapping[str, str], *, system: str = "linux", environment: Mapping[str, str] | None = None
) -> Machine:
    host = Described(files, system=system, environment=environment)
    return probe(nvml=no_nvml, processes=NothingStarts(), host=host)


BUS = {
    "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    "/sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
}
AUDIO_ONLY = {name: text for name, text in BUS.items() if "00.1" in name}
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)  Wed\n"


def test_a_gpu_on_the_bus_without_a_driver() -> None:
    machine = described({**BUS, "/proc/modules": "nouveau 2740224 0 - Live 0x0\n"})
    assert machine.nvidia_hardware is True
    assert machine.driver.loaded is False
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert (blocked.cause, "nouveau" in blocked.reason) == (Cause.DRIVER_BROKEN, True)


def test_the_sound_of_a_gpu_is_no_gpu() -> None:
    assert described(AUDIO_ONLY).nvidia_hardware is False


def test_a_bus_that_cannot_be_read_is_not_an_empty_one() -> None:
    assert described({}).nvidia_hardware is None
    machine = described({"/sys/bus/pci/devices/0000:01:00.0/vendor": "permission"})
    assert machine.nvidia_hardware is None
    assert "PCI device 0000:01:00.0" in {one.what for one in machine.unavailable}


def test_a_container_that_was_not_given_the_gpu() -> None:
    machine = described({**BUS, "/proc/driver/nvidia/version": OPEN, "/.dockerenv": ""})
    assert (machine.container, machine.driver.modules, machine.driver.kernel_mode) == (
        "docker",
        Modules.OPEN,
        "580.159.04",
    )
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert blocked.cause is Cause.NO_GPU_VISIBLE
    assert "--gpus all" in blocked.next_step


def test_wsl() -> None:
    files = {"/proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n"}
    machine = described(files)
    assert (machine.wsl, machine.nvidia_hardware, machine.device_files) == (True, None, False)
    assert described({**files, "/dev/dxg": ""}).device_files is True
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert "/dev/dxg" in blocked.reason


def test_windows() -> None:
    machine = described({}, system="windows", environment={"PATH": r"C:\Windows", "LOCALAPPDATA": r"C:\Users\u\Local"})
    assert (machine.os, machine.glibc, machine.nvidia_hardware, machine.container) == ("windows", None, None, None)
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert blocked.cause is Cause.NO_GPU_VISIBLE


def test_a_jetson_has_its_gpu_off_the_bus() -> None:
    assert described({"/proc/device-tree/compatible": "nvidia,p3737\0nvidia,tegra234\0"}).nvidia_hardware is True


def test_a_version_file_of_another_shape_is_reported() -> None:
    machine = described({**BUS, "/proc/driver/nvidia/version": "something else\n"})
    assert (machine.driver.modules, machine.driver.loaded, machine.driver.kernel_mode) == (Modules.UNKNOWN, True, None)
    assert any("another shape" in one.reason for one in machine.unavailable)


def test_only_the_listed_variables_are_read() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "secret", "LD_PRELOAD": "/x.so"}
    assert dict(described({}, environment=environment).variables) == {
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_PRELOAD": "/x.so",
    }
    assert not [name for name in VARIABLES if "TOKEN" in name or "KEY" in name]


def test_an_h100() -> None:
    replay = Replay((RECORDINGS / "h100.json").read_text("utf-8"))
    machine = probe(
        nvml=replay.open_nvml, processes=replay.processes, host=replay, list_pythons=False, name_libraries=False
    )
    (device,) = machine.devices
    assert (device.name, str(device.compute_capability), device.mig) == ("NVIDIA H100 80GB HBM3", "9.0", False)
    assert (machine.driver.kernel_mode, machine.driver.cuda, machine.driver.modules.value) == (
        "580.159.04",
        "13.0",
        "open",
    )
    assert machine.nvidia_hardware is True
    assert machine.cuda_visible == (str(device.uuid).removeprefix("GPU-"),)
    assert machine.unavailable == ()
    assert diagnose_blocked(machine) is None
    assert "NVIDIA-SMI 580.159.04" in nvidia_smi_text(replay.processes)
    text = render(read_nvml(replay.open_nvml()), taken="then")
    assert "GPU 0: NVIDIA H100 80GB HBM3 (GPU-00000000-0000-4000-8000-000000000001)" in text
    assert "compute processes:   none listed" in text
