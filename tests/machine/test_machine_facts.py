"""Parsers of the host's files, and the host, clock and Python doors of this machine."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.domain.machine import Modules
from ongpu.errors import DoorError
from ongpu.machine import facts
from ongpu.machine.clock import RealClock
from ongpu.machine.host import RealHost
from ongpu.machine.process import RealProcesses
from ongpu.machine.pythons import ask_python, find_pythons


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)",
            (Modules.OPEN, "580.159.04"),
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
            (Modules.PROPRIETARY, "535.183.01"),
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  575.51.02  Release Build",
            (Modules.OPEN, "575.51.02"),
        ),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  470.256.02  Thu", (Modules.PROPRIETARY, "470.256.02")),
        ("", None),
        ("GCC version:  gcc version 12.2.0", None),
    ],
)
def test_flavor_of_the_kernel_modules(line: str, expected: tuple[Modules, str] | None) -> None:
    assert facts.kernel_modules(f"{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n") == expected


@settings(deadline=None)  # no test depends on a time
@given(st.text(max_size=300))
def test_no_text_breaks_a_parser(text: str) -> None:
    facts.kernel_modules(text)
    facts.os_release(text)
    facts.loaded_modules(text)
    facts.container(environment={}, marks=frozenset(), cgroup=text)


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04", "580.159.04"),
        ("/usr/local/cuda-13.0/compat/libcuda.so.580.82.07", "580.82.07"),
        ("/usr/lib/libcuda.so.470.256", "470.256"),
        ("/usr/lib/wsl/drivers/x/libcuda.so.1.1", None),
        ("/tmp/libnvidia-ml.so.1", None),
        ("", None),
    ],
)
def test_version_in_the_name_of_a_library(path: str, version: str | None) -> None:
    assert facts.version_in_name(path) == version


def test_os_release() -> None:
    assert facts.os_release('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == (
        "Debian GNU/Linux 12 (bookworm)"
    )
    assert facts.os_release("NAME=Alpine\nVERSION_ID=3.20\n") == "Alpine 3.20"
    assert facts.os_release("# nothing\n") is None


@pytest.mark.parametrize(
    ("environment", "marks", "cgroup", "expected"),
    [
        ({}, [], "0::/\n", None),
        ({}, ["/.dockerenv"], "", "docker"),
        ({}, [], "12:devices:/docker/3f2b\n", "docker"),
        ({}, ["/run/.containerenv"], "", "podman"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ["/.dockerenv"], "", "kubernetes"),
        ({}, [], "11:cpu:/kubepods/besteffort/pod1\n", "kubernetes"),
        ({"APPTAINER_CONTAINER": "x.sif"}, [], "", "apptainer"),
        ({"container": "systemd-nspawn"}, [], "", "systemd-nspawn"),
        ({}, [], "1:name=systemd:/lxc/one\n", "lxc"),
    ],
)
def test_container(environment: dict[str, str], marks: list[str], cgroup: str, expected: str | None) -> None:
    assert facts.container(environment=environment, marks=frozenset(marks), cgroup=cgroup) == expected


def test_the_real_host(tmp_path: Path) -> None:
    host = RealHost({"A": "1"})
    (tmp_path / "python3").write_bytes(b"\xff text")
    assert host.read_text(str(tmp_path / "python3")) == "\ufffd text"
    assert host.list_dir(str(tmp_path), prefix="py") == ("python3",)
    assert host.list_dir(str(tmp_path), prefix="x") == ()
    assert host.exists(str(tmp_path))
    assert not host.exists(str(tmp_path / "missing"))
    assert host.environment() == {"A": "1"}
    for path, code in ((tmp_path / "missing", "missing"), (tmp_path, "unreadable")):
        with pytest.raises(DoorError) as caught:
            host.read_text(str(path))
        assert (caught.value.door, caught.value.code) == ("file", code)
    with pytest.raises(DoorError):
        host.list_dir(str(tmp_path / "missing"))
    with pytest.raises(DoorError):
        host.sha256(str(tmp_path / "missing"))
    assert host.sha256(str(tmp_path / "python3")) == hashlib.sha256(b"\xff text").hexdigest()
    assert host.mapped_file("no-such-library") is None
    if sys.platform == "linux":
        assert host.mapped_file("libc.so") or host.mapped_file("libc-") or host.mapped_file("ld-")
    platform = host.platform()
    assert platform.executable == sys.executable
    assert platform.version == ".".join(map(str, sys.version_info[:3]))
    assert platform.arch in {"x86_64", "aarch64"}


def test_the_clock() -> None:
    clock = RealClock()
    first = clock.mono_s()
    assert clock.mono_s() >= first
    assert clock.wall_s() > 1_700_000_000
    assert clock.boot_id() == clock.boot_id() != ""


@pytest.mark.process
def test_this_python_says_who_it_is(tmp_path: Path) -> None:
    found = ask_python(RealProcesses(), sys.executable)
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert (found.environment is not None) == (sys.prefix != sys.base_prefix)
    liar = tmp_path / "python3"
    liar.write_text("#!/bin/sh\necho 3.12\n")
    liar.chmod(0o755)
    with pytest.raises(DoorError) as caught:
        ask_python(RealProcesses(), str(liar))
    assert caught.value.code == "not-python"


@pytest.mark.process
def test_pythons_are_found_by_their_real_path_and_one_that_lies_is_reported(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python3.99").chmod(0o755)
    (tmp_path / "python3-config").write_text("not one")
    host = RealHost({"PATH": f"{tmp_path}:/no/such/folder", "HOME": str(tmp_path)})
    found, unavailable = find_pythons(host, RealProcesses())
    assert [one.path for one in found] == [os.path.realpath(sys.executable)]
    assert [one.what for one in unavailable] == [f"python {tmp_path}/python3.99"]
