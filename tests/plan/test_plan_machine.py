"""The machine's own axes: no GPU, a broken driver, the wrong modules, systems nobody builds for."""

from __future__ import annotations

import dataclasses

import pytest

from ongpu import catalog
from ongpu.domain.build import AxisVerdict, Decision, DecisionKind
from ongpu.domain.machine import Device, Driver, Machine, Modules, Unavailable
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan import Request, described, plan

CATALOG = catalog.load()
NVML = "NVML_ERROR"
NO_NVML = Unavailable(what="nvml", reason="NVML Shared Library Not Found", code=f"{NVML}_LIBRARY_NOT_FOUND")


def decide(machine: Machine, **request: str) -> Decision:
    return plan(machine, catalog=CATALOG, request=Request(**request))  # type: ignore[arg-type]


def bare(**changes: object) -> Machine:
    return dataclasses.replace(Machine(os="linux", arch="x86_64", glibc="2.35"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "cause", "word"),
    [
        (bare(nvidia_hardware=False), Cause.NO_GPU_VISIBLE, "--gpu"),
        (bare(container="docker", unavailable=(NO_NVML,)), Cause.NO_GPU_VISIBLE, "--gpus all"),
        (
            bare(
                container="docker",
                nvidia_hardware=True,
                device_files=False,
                driver=Driver(loaded=True),
                unavailable=(NO_NVML,),
            ),
            Cause.NO_GPU_VISIBLE,
            "--gpus all",
        ),
        (bare(wsl=True, device_files=False, unavailable=(NO_NVML,)), Cause.NO_GPU_VISIBLE, "Windows"),
        (bare(nvidia_hardware=True, unavailable=(NO_NVML,)), Cause.DRIVER_BROKEN, "not installed or not loaded"),
        (
            bare(
                nvidia_hardware=True,
                unavailable=(
                    Unavailable(
                        what="nvml", reason="Driver/library version mismatch", code=f"{NVML}_LIB_RM_VERSION_MISMATCH"
                    ),
                ),
            ),
            Cause.DRIVER_BROKEN,
            "Reboot",
        ),
        (
            bare(nvidia_hardware=True, driver=Driver(kernel_mode="580.95.05")),
            Cause.DRIVER_BROKEN,
            "open kernel modules",
        ),
        (Machine(os="macos", arch="aarch64"), Cause.NO_GPU_VISIBLE, "macOS"),
        (bare(os_release="Alpine Linux 3.20", glibc=None), Cause.PYTHON_ENV, "musl"),
        (bare(devices=(Device(name="NVIDIA GeForce RTX 9999"),)), Cause.UNDETERMINED, "--compute-capability"),
    ],
)
def test_a_machine_that_cannot_be_planned_for_says_why(machine: Machine, cause: Cause, word: str) -> None:
    decision = decide(machine)
    assert decision.decision is DecisionKind.BLOCKED
    assert decision.cause is cause
    assert word in decision.next_step


@pytest.mark.parametrize(
    ("gpu", "modules", "driver", "cause"),
    [
        ("RTX 5090", "proprietary", "580.95.05", Cause.DRIVER_BROKEN),
        ("RTX 5090", "open", "580.95.05", None),
        ("GTX 1080 Ti", "open", "580.95.05", Cause.DRIVER_BROKEN),
        ("GTX 1080 Ti", "proprietary", "580.95.05", None),
        ("T4", "open", "580.95.05", None),
        ("T4", "proprietary", "580.95.05", None),
    ],
)
def test_the_kernel_modules_must_be_of_the_right_flavor(
    gpu: str, modules: str, driver: str, cause: Cause | None
) -> None:
    machine = described(catalog=CATALOG, gpus=[gpu], driver=driver, modules=modules, os="linux")
    assert decide(machine).cause is cause


def test_no_flavor_is_asked_for_on_windows_and_under_wsl() -> None:
    for wsl, system in ((False, "windows"), (True, "linux")):
        machine = described(catalog=CATALOG, gpus=["RTX 5090", "V100"], driver="581.29", os=system, wsl=wsl)
        assert decide(machine).decision is DecisionKind.PREBUILT


def test_a_driver_known_by_its_cuda_version_alone_is_enough() -> None:
    machine = dataclasses.replace(
        catalog.described_machine("rtx5090-linux"), driver=Driver(cuda="12.8", modules=Modules.OPEN)
    )
    decision = decide(machine)
    assert (decision.torch, decision.cuda_tag) == ("2.13.0", "cu129")


def test_a_compatibility_package_raises_the_ceiling_and_is_named() -> None:
    machine = dataclasses.replace(
        catalog.described_machine("a100-linux-r535"), driver=Driver(kernel_mode="535.183.01", cuda="13.0")
    )
    decision = decide(machine)
    assert decision.cuda_tag == "cu132"
    driver = next(one for one in decision.axes if one.axis == "driver")
    assert driver.verdict is AxisVerdict.FITS_WITH_NOTE
    assert "cuda-compat" in driver.reason


def test_compiled_code_needs_a_driver_that_knows_its_ptx() -> None:
    """compute_120 of 2.11.0+cu129 serves a capability of the future, on a driver for CUDA 12.9 or newer alone."""
    fits = {}
    for driver in ("570.124.06", "575.57.08"):
        machine = described(catalog=CATALOG, compute_capabilities=["13.0"], driver=driver, os="linux")
        fits[driver] = decide(machine)
    assert fits["575.57.08"].torch == "2.11.0"
    assert fits["575.57.08"].cuda_tag == "cu129"
    assert fits["570.124.06"].torch == "2.7.1"
    assert fits["570.124.06"].cuda_tag == "cu128"


def test_gpus_that_no_build_serves_together_are_split_by_mask() -> None:
    machine = described(catalog=CATALOG, gpus=["K80", "A100"], driver="470.256.02", os="linux")
    assert (decide(machine).torch, decide(machine).cuda_tag) == ("2.7.1", "cu118")
    split = decide(dataclasses.replace(machine, driver=Driver(kernel_mode="470.256.02")), torch_spec="torch>=2.7")
    assert split.decision is DecisionKind.PREBUILT
    windows = described(catalog=CATALOG, gpus=["RTX 5090", "GTX 980"], driver="581.29", os="windows", python="3.14")
    decision = decide(windows)
    assert decision.decision is DecisionKind.BLOCKED
    assert [one.devices for one in decision.split] == [(0,), (1,)]
    assert "CUDA_VISIBLE_DEVICES" in decision.next_step
    assert "2.15.0+cu132" in decision.split[0].label
    assert "2.14.1+cu126" in decision.split[1].label


def test_one_build_for_all_is_taken_and_what_it_costs_is_said() -> None:
    machine = described(catalog=CATALOG, gpus=["V100", "RTX 5090"], driver="581.29", os="windows")
    decision = decide(machine)
    assert (decision.torch, decision.cuda_tag) == ("2.10.0", "cu128")
    assert [one.torch for one in decision.split] == ["2.15.0", "2.14.1"]
    assert any("alone, with CUDA_VISIBLE_DEVICES=" in one for one in decision.lost)


def test_hidden_gpus_are_planned_for_and_named() -> None:
    machine = dataclasses.replace(
        catalog.described_machine("rtx5090-linux"), variables=(("CUDA_VISIBLE_DEVICES", "-1"),), cuda_visible=()
    )
    device = next(one for one in decide(machine).axes if one.axis == "device")
    assert device.verdict is AxisVerdict.FITS_WITH_NOTE
    assert "CUDA_VISIBLE_DEVICES=-1" in device.reason


@pytest.mark.parametrize(
    "spec",
    ["torch>=2.8,<2.10", "torch[opt]>=2.8,<2.10", "torch >= 2.8, < 2.10 ; python_version > '3.9'", "(>=2.8,<2.10)"],
)
def test_a_requirement_is_read_in_every_way_it_is_written(spec: str) -> None:
    assert decide(catalog.described_machine("rtx5090-linux"), torch_spec=spec).torch == "2.9.1"


@pytest.mark.parametrize("spec", ["2.9", "2.9.1", "==2.9.*", "torch~=2.9.0", "torch==2.9.1+cu130"])
def test_a_version_alone_is_a_requirement(spec: str) -> None:
    decision = decide(catalog.described_machine("rtx5090-linux"), torch_spec=spec)
    assert decision.torch == "2.9.1"


def test_a_dropped_gpu_beside_a_good_one_leaves_the_good_one_usable() -> None:
    machine = described(catalog=CATALOG, gpus=["K80", "A100"], driver="580.95.05", os="linux")
    decision = decide(machine)
    assert decision.cause is Cause.DRIVER_TOO_NEW
    assert [one.devices for one in decision.split] == [(1,)]


def test_two_gpus_of_one_name_are_two_gpus() -> None:
    machine = described(catalog=CATALOG, gpus=["RTX 4090", "RTX 4090"], driver="580.95.05")
    assert len(decide(machine).fit) == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gpus": ["RTX 5091"]}, "RTX 5090"),
        ({"gpus": ["RTX 6000"]}, "Ada"),
        ({"gpus": [""]}, "model name"),
        ({"gpus": []}, "--gpu"),
        ({"gpus": ["RTX 5090"], "driver": "13.0"}, "CUDA version"),
        ({"gpus": ["RTX 5090"], "driver": "newest"}, "580.95.05"),
        ({"gpus": ["RTX 5090"], "os": "macos"}, "linux or windows"),
        ({"gpus": ["RTX 5090"], "arch": "arm64"}, "aarch64"),
        ({"gpus": ["RTX 5090"], "python": "three"}, "3.12"),
        ({"gpus": ["RTX 5090"], "glibc": "new"}, "2.35"),
        ({"gpus": ["RTX 5090"], "modules": "closed"}, "proprietary"),
        ({"compute_capabilities": ["sm_120"]}, "12.0"),
        ({"compute_capabilities": ["ninety"]}, "12.0"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_to_give(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError) as refused:
        described(catalog=CATALOG, **options)  # type: ignore[arg-type]
    assert word in str(refused.value)
    assert refused.value.exit_status == 2


@pytest.mark.parametrize(
    "spec",
    ["torch>=2.9,<2.8", "torch==99", "torch==2.9.1+cu132", "torch==2.9.1+cpu", "jax", "==", "torch==2.9.1+rocm6"],
)
def test_a_requirement_nothing_can_satisfy_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError):
        decide(catalog.described_machine("rtx5090-linux"), torch_spec=spec)


@pytest.mark.parametrize(("capability", "arch"), [("10.1", "aarch64"), ("8.7", "aarch64"), ("12.0", "x86_64")])
def test_a_chip_with_an_arm_cpu_is_assumed_to_have_one(capability: str, arch: str) -> None:
    machine = described(catalog=CATALOG, compute_capabilities=[capability], driver="R580")
    assert machine.arch == arch
    assert machine.driver.kernel_mode == "580"
    if capability == "10.1":
        assert (decide(machine).torch, str(decide(machine).fit[0].compute_capability)) == ("2.15.0", "11.0")


def test_nothing_of_this_machine_leaks_into_a_described_one() -> None:
    machine = described(catalog=CATALOG, gpus=["RTX 5090"])
    assert machine.simulated
    assert machine.python is None
    assert machine.glibc is None
    assert machine.driver.kernel_mode is None
    decision = decide(machine)
    named = " ".join(decision.assumptions)
    for what in ("os:", "arch:", "driver:", "python:", "glibc:", "kernel modules:"):
        assert what in named


def test_a_nightly_is_taken_only_where_it_is_allowed() -> None:
    machine = catalog.described_machine("rtx5090-linux")
    assert decide(machine, channel="any").torch == "2.15.0"
    nightly = decide(machine, channel="nightly")
    assert nightly.torch == "2.16.0.dev"
    assert "--pre" in nightly.command
    assert nightly.index_url == "https://download.pytorch.org/whl/nightly/cu132" or nightly.cuda_tag == "cu134"


def test_companions_pair_with_the_release_and_end_where_they_ended() -> None:
    machine = catalog.described_machine("rtx5090-linux")
    asked = Request(companions=("torchvision", "torchaudio"))
    decision = plan(machine, catalog=CATALOG, request=asked)
    assert decision.command == ("uv", "pip", "install", "torch==2.15.0", "torchvision==0.29.2", "torchaudio==2.11.0")
    audio = next(one for one in decision.companions if one.name == "torchaudio")
    assert "ended with 2.11.0" in audio.reason
    older = plan(machine, catalog=CATALOG, request=Request(torch_spec="==2.9.1", companions=("torchvision",)))
    assert "torchvision==0.24.1" in older.command


def test_a_gpu_no_wheel_has_code_for_is_that_cause_whatever_else_is_wrong() -> None:
    """An old Python and a nightly asked for do not hide that no build of the platform has code for a K80."""
    machine = described(catalog=CATALOG, gpus=["K80"], arch="aarch64", driver="450.80.02", python="3.8", os="linux")
    decision = decide(machine, channel="nightly")
    assert decision.cause is Cause.WHEEL_NO_ARCH
    assert decision.decision is DecisionKind.SOURCE
    assert any("python3.9 -m venv" in line for line in decision.recipe)


def test_a_recipe_is_written_where_no_wheel_has_code() -> None:
    machine = described(catalog=CATALOG, gpus=["T4"], arch="aarch64", driver="580.95.05", os="linux")
    decision = decide(machine)
    assert decision.decision is DecisionKind.SOURCE
    text = "\n".join(decision.recipe)
    assert 'TORCH_CUDA_ARCH_LIST="7.5"' in text
    assert "v2.15.0" in text
    assert "13.2" in text
