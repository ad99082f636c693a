"""The probe survives every way a driver fails, and names it. Stand-in drivers, real doors, real children."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="stand-ins are ELF libraries")]
Probed = Callable[..., dict[str, Any]]
UUID = "GPU-11111111-2222-4333-8444-555555555555"


def codes(found: dict[str, Any]) -> dict[str, str | None]:
    return {one["what"]: one["code"] for one in found["machine"]["unavailable"]}


def test_a_driver_that_answers(probed: Probed) -> None:
    machine = probed()["machine"]
    assert machine["devices"] == [
        {
            "name": "NVIDIA Stand-in",
            "uuid": UUID,
            "compute_capability": "12.0",
            "memory_bytes": 32 << 30,
            "pci_bus_id": None,
            "mig": False,
        }
    ]
    assert (machine["driver"]["kernel_mode"], machine["driver"]["cuda"]) == ("580.159.04", "13.0")
    assert machine["cuda_visible"] == [UUID.removeprefix("GPU-")]


def test_what_answered_is_named_with_its_digest(probed: Probed, drivers: Path) -> None:
    libraries = probed()["machine"]["libraries"]
    for one, file in zip(libraries, ("libnvidia-ml.so.1", "libcuda.so.1"), strict=True):
        path = drivers / file
        assert one["path"] == os.path.realpath(path)
        assert one["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert one["version"] is None


def test_it_is_no_claim_about_what_was_not_read(probed: Probed) -> None:
    found = probed(STANDIN_NVML="refuses")
    device = found["machine"]["devices"][0]
    assert device["compute_capability"] is None
    assert device["memory_bytes"] is None
    assert {"memory_bytes of NVIDIA Stand-in", "compute_capability of NVIDIA Stand-in"} <= set(codes(found))


def test_the_parts_of_a_gpu_split_by_mig_are_listed_in_its_place(probed: Probed) -> None:
    devices = probed(STANDIN_NVML="mig")["machine"]["devices"]
    assert [(one["uuid"], one["memory_bytes"] >> 30, one["mig"]) for one in devices] == [
        ("MIG-16", 8, True),
        ("MIG-20", 8, True),
    ]
    assert {one["compute_capability"] for one in devices} == {"12.0"}
    closed = probed(STANDIN_NVML="mig-closed")["machine"]["devices"]
    assert [(one["uuid"], one["mig"]) for one in closed] == [(UUID, True)]


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("init:4", "NVML_ERROR_NO_PERMISSION"),
        ("init:9", "NVML_ERROR_DRIVER_NOT_LOADED"),
        ("init:15", "NVML_ERROR_GPU_IS_LOST"),
        ("init:18", "NVML_ERROR_LIB_RM_VERSION_MISMATCH"),
        ("init:999", "NVML_ERROR_UNKNOWN"),
        ("init:77", "NVML_ERROR_77"),
        ("hang", "timeout"),
        ("crash", "crashed"),
    ],
)
def test_nvml_that_does_not_start(probed: Probed, mode: str, code: str) -> None:
    found = probed(STANDIN_NVML=mode, STANDIN_CUDA="init:999")
    assert codes(found)["nvml"] == code
    assert found["machine"]["devices"] == []
    assert found["blocked"] is not None
    assert found["blocked"]["next_step"]


def test_a_mismatch_names_the_version_of_the_library(probed: Probed) -> None:
    found = probed(STANDIN_NVML="init:18", STANDIN_CUDA="init:803")
    reasons = [one["reason"] for one in found["machine"]["unavailable"] if one["what"] == "nvml"]
    assert "13.580.159.04" in reasons[0]


def test_the_list_of_devices_hangs_or_is_lost(probed: Probed) -> None:
    hung = probed(STANDIN_NVML="hang-devices", STANDIN_CUDA="init:999")
    assert codes(hung)["devices"] == "timeout"
    assert hung["machine"]["driver"]["kernel_mode"] == "580.159.04"
    lost = probed(STANDIN_NVML="lost", STANDIN_CUDA="init:999")
    assert codes(lost)["devices"] == "NVML_ERROR_GPU_IS_LOST"


def test_without_nvml_libcuda_names_the_devices_even_where_they_are_hidden(probed: Probed) -> None:
    found = probed(STANDIN_NVML="init:9", CUDA_VISIBLE_DEVICES="-1")
    assert [one["uuid"] for one in found["machine"]["devices"]] == [UUID]
    assert found["machine"]["cuda_visible"] == []
    assert found["machine"]["variables"] == [
        ["CUDA_VISIBLE_DEVICES", "-1"],
        ["LD_LIBRARY_PATH", dict(found["machine"]["variables"])["LD_LIBRARY_PATH"]],
    ]
    assert found["blocked"]["cause"] == "no-gpu-visible"
    assert "CUDA_VISIBLE_DEVICES='-1'" in found["blocked"]["reason"]


@pytest.mark.parametrize(
    ("mode", "what", "code", "cause"),
    [
        ("init:802", "cuInit", "CUDA_ERROR_SYSTEM_NOT_READY", "driver-broken"),
        ("init:803", "cuInit", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "driver-broken"),
        ("init:804", "cuInit", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "cuda-version-mismatch"),
        ("init:12345", "cuInit", "CUDA_ERROR_12345", "driver-broken"),
        ("hang", "libcuda", "timeout", "driver-broken"),
        ("crash", "libcuda", "crashed", "driver-broken"),
    ],
)
def test_cuda_that_does_not_start(probed: Probed, mode: str, what: str, code: str, cause: str) -> None:
    found = probed(STANDIN_CUDA=mode)
    assert codes(found)[what] == code
    assert found["machine"]["cuda_visible"] is None
    assert found["blocked"]["cause"] == cause


READINGS = """
import os, sys
from pathlib import Path
from ongpu.errors import DoorError
from ongpu.machine.nvml import open_nvml
from ongpu.machine.process import RealProcesses
from ongpu.machine.smi import read_nvml, render
nvml = open_nvml(RealProcesses(), python=Path(sys.executable), environment=os.environ, timeout_s=2.0)
print(render(read_nvml(nvml), taken="in a test"))
nvml.close(); nvml.close()
try:
    nvml.devices()
except DoorError as error:
    print("after close:", error.code)
"""


def readings(folder: Path, mode: str) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "STANDIN_NVML": mode}
    done = subprocess.run(
        [sys.executable, "-c", READINGS], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_reading_as_text(drivers: Path) -> None:
    text = readings(drivers, "ok")
    assert "pid 4242: 512 MiB" in text
    assert "pid 4343: not readable" in text
    assert "1,024 MiB / 32,768 MiB" in text
    assert "39.0 W" in text
    assert "after close: NVML_ERROR_UNINITIALIZED" in text


def test_an_old_driver_lists_processes_by_the_older_function(drivers: Path) -> None:
    assert "pid 4242: 512 MiB" in readings(drivers / "old", "ok")


def test_a_client_of_mps_is_listed_as_well(drivers: Path) -> None:
    assert "pid 5555" not in readings(drivers, "ok")
    text = readings(drivers, "mps")
    assert "pid 5555: 64 MiB" in text
    assert "pid 4242: 512 MiB" in text


def test_a_list_in_another_layout_is_refused(drivers: Path) -> None:
    assert "compute processes:   not readable (implausible)" in readings(drivers, "skewed")


def test_a_reading_that_is_refused_is_not_a_value(drivers: Path) -> None:
    text = readings(drivers, "refuses")
    assert "power draw:          not readable (NVML_ERROR_NOT_SUPPORTED)" in text
    assert "memory used / total: not readable (NVML_ERROR_NOT_SUPPORTED) / not readable" in text


def test_a_call_that_hangs_after_the_start_ends_within_the_limit_and_so_do_all_later_ones(drivers: Path) -> None:
    text = readings(drivers, "late-hang")
    assert "SM utilization:      not readable (timeout)" in text
    assert "compute processes:   not readable (timeout)" in text


def test_an_interrupt_while_a_driver_hangs_ends_the_children_at_once(drivers: Path, program: str) -> None:
    code = program.replace("2.0", "500.0")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(drivers),
        "STANDIN_CUDA": "hang",
        "STANDIN_NVML": "hang",
    }
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as child:
        asking: list[psutil.Process] = []
        while len(asking) < 2:
            assert child.poll() is None
            time.sleep(0.05)
            asking = psutil.Process(child.pid).children()
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    gone, alive = psutil.wait_procs(asking, timeout=10)
    assert (len(gone), alive) == (2, [])
