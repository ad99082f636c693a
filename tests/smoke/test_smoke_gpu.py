"""On a real GPU: the doors, the probe and the checks, and what they say when something is wrong on purpose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.foreign import foreign_libraries
from ongpu.domain.machine import Machine, Modules
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import DoorError
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import Nvml, open_nvml
from ongpu.machine.process import RealProcesses
from ongpu.machine.smi import read_nvml, render
from ongpu.payload import matmul_check
from ongpu.probe import probe
from ongpu.smoke import SmokeReport, run_smoke
from ongpu.smoke.judge import bound

pytestmark = pytest.mark.gpu
PROCESSES = RealProcesses()
PYTHON = Path(sys.executable)


def opened() -> Nvml:
    return open_nvml(PROCESSES, python=PYTHON, environment=os.environ)


def probed(**variables: str) -> Machine:
    environment = {**os.environ, **variables}
    return probe(nvml=opened, processes=PROCESSES, host=RealHost(environment), list_pythons=False)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return probed()


@pytest.fixture
def nvml() -> Iterator[Nvml]:
    door = opened()
    yield door
    door.close()


@pytest.fixture(autouse=True, scope="module")
def _torch_for_cuda() -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is None:
        pytest.skip("this Python's torch is built for the CPU only")


def smoked(nvml: Nvml | None, uuid: str | None, **variables: str) -> SmokeReport:
    environment = {**os.environ, **variables}
    return run_smoke(python=PYTHON, uuid=uuid, nvml=nvml, processes=PROCESSES, environment=environment)


def test_the_machine(machine: Machine) -> None:
    assert machine.devices
    device = machine.devices[0]
    assert device.uuid is not None
    assert device.uuid.startswith(("GPU-", "MIG-"))
    assert device.compute_capability is not None
    assert device.memory_bytes is not None
    assert machine.driver.kernel_mode is not None
    assert machine.driver.cuda is not None
    assert machine.driver.modules is not Modules.UNKNOWN
    assert machine.driver.loaded is True
    assert machine.cuda_visible is not None
    assert diagnose_blocked(machine) is None
    if sys.platform == "linux":
        assert [one.name for one in machine.libraries] == ["libnvidia-ml", "libcuda"]
        assert all(one.sha256 for one in machine.libraries)
    assert foreign_libraries(machine) == ()


def test_a_hidden_gpu_is_named_as_hidden() -> None:
    machine = probed(CUDA_VISIBLE_DEVICES="-1")
    assert machine.devices, "NVML lists what CUDA hides"
    assert machine.cuda_visible in {(), None}
    blocked = diagnose_blocked(machine)
    assert blocked is not None
    assert blocked.cause is Cause.NO_GPU_VISIBLE
    assert "CUDA_VISIBLE_DEVICES" in blocked.reason


def test_every_check_is_proven(machine: Machine, nvml: Nvml) -> None:
    report = smoked(nvml, machine.devices[0].uuid)
    assert report.torch is not None
    assert report.torch.driver == machine.driver.cuda
    assert [(one.name, one.outcome, one.reason) for one in report.checks if one.outcome is not Outcome.PROVEN] == []
    uuid = machine.devices[0].uuid
    assert uuid is not None
    pid = report.checks[3].figures["pid"]
    assert pid not in {one.pid for one in nvml.processes(uuid)}, "the child is gone, and its memory with it"


def test_without_a_uuid_the_gpu_that_torch_took_is_looked_at(nvml: Nvml) -> None:
    assert smoked(nvml, None).outcome is Outcome.PROVEN


def test_hidden_from_torch(machine: Machine, nvml: Nvml) -> None:
    report = smoked(nvml, machine.devices[0].uuid, CUDA_VISIBLE_DEVICES="-1")
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.NO_GPU_VISIBLE)


def test_another_gpu_than_there_is(nvml: Nvml) -> None:
    report = smoked(nvml, "GPU-00000000-0000-4000-8000-000000000000")
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.NO_GPU_VISIBLE)
    with pytest.raises(DoorError) as caught:
        nvml.memory_used("GPU-00000000-0000-4000-8000-000000000000")
    assert caught.value.code == "NVML_ERROR_NOT_FOUND"


def test_tf32_is_above_the_bound_of_float32(machine: Machine) -> None:
    capability = machine.devices[0].compute_capability
    if capability is None or capability.major < 8:
        pytest.skip("this GPU has no TF32")
    import torch

    torch.set_float32_matmul_precision("high")
    try:
        done = matmul_check.product(torch, torch.device("cuda", 0), "float32", 4096)
    finally:
        torch.set_float32_matmul_precision("highest")
    found = matmul_check.check(torch, done)
    assert found["not_finite"] == 0
    assert found["rows_error"] > bound("float32", 4096)
    assert found["projected_error"] > bound("float32", 4096)


def test_a_reading_as_text(nvml: Nvml, machine: Machine) -> None:
    text = render(read_nvml(nvml), taken="in a test")
    assert machine.devices[0].name in text
    assert str(machine.driver.kernel_mode) in text
