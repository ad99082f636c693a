"""Which GPUs a program sees, and why no GPU can be used: pure rules."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.foreign import foreign_libraries
from ongpu.domain.machine import Device, Driver, DriverLibrary, Machine, Modules, Unavailable
from ongpu.domain.verdict import Cause
from ongpu.domain.visible import visible_devices


def gpu(number: int, *, name: str = "NVIDIA GeForce RTX 5090", mig: bool = False) -> Device:
    return Device(
        name=name,
        uuid=f"GPU-{number}1111111-2222-4333-8444-555555555555",
        compute_capability=ComputeCapability(12, 0),
        pci_bus_id=f"00000000:0{9 - number}:00.0",
        mig=mig,
    )


def machine(count: int, **variables: str) -> Machine:
    return Machine(
        os="linux",
        arch="x86_64",
        devices=tuple(gpu(number) for number in range(count)),
        variables=tuple(variables.items()),
        nvidia_hardware=True,
        device_files=True,
        driver=Driver(kernel_mode="580.159.04", cuda="13.0", modules=Modules.OPEN, loaded=True),
    )


@pytest.mark.parametrize(
    ("count", "value", "seen", "certain"),
    [
        (1, None, [0], True),
        (2, None, [0, 1], True),
        (1, "0", [0], True),
        (1, " +0 ", [0], True),
        (1, "", [], True),
        (1, "-1", [], True),
        (1, "NoDevFiles", [], True),
        (1, "1", [], True),
        (1, "0,7", [0], True),
        (1, "7,0", [], True),
        (2, "0,0", [], True),
        (2, "0gpu", [0, 1], False),
        (2, "1", [0, 1], False),
        (2, "1,0", [0, 1], True),
        (2, "GPU-1", [1], True),
        (2, "GPU-1,GPU-0", [1, 0], True),
        (2, "GPU-1,GPU-1", [], True),
        (2, "GPU-1,0,GPU-0", [1], True),
        (2, "GPU-", [], True),
        (2, "GPU-9", [], True),
        (2, "MIG-8f", [], True),
    ],
)
def test_the_rule(count: int, value: str | None, seen: list[int], certain: object) -> None:
    found = visible_devices(machine(count, **({} if value is None else {"CUDA_VISIBLE_DEVICES": value})))
    assert [one.uuid for one in found.devices] == [gpu(number).uuid for number in seen]
    assert found.certain is certain


def test_the_order_of_the_bus_names_a_number() -> None:
    found = visible_devices(machine(2, CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID"))
    assert (found.devices, found.certain) == ((gpu(1),), True)  # the second has the lower bus id here


def test_what_libcuda_listed_counts_more_than_the_rule() -> None:
    listed = dataclasses.replace(
        machine(2, CUDA_VISIBLE_DEVICES="0"), cuda_visible=(str(gpu(1).uuid).removeprefix("GPU-"),)
    )
    assert visible_devices(listed).devices == (gpu(1),)
    assert visible_devices(listed).certain
    foreign = dataclasses.replace(listed, cuda_visible=("no such",))
    assert not visible_devices(foreign).certain


def test_a_gpu_split_by_mig() -> None:
    parts = tuple(dataclasses.replace(gpu(number, mig=True), uuid=f"MIG-{number}") for number in (1, 2))
    named = dataclasses.replace(machine(0, CUDA_VISIBLE_DEVICES="MIG-2,MIG-1"), devices=parts)
    assert visible_devices(named) == dataclasses.replace(visible_devices(named), devices=(parts[1],), certain=True)
    absent = dataclasses.replace(named, variables=(("CUDA_VISIBLE_DEVICES", "MIG-9"),))
    assert (visible_devices(absent).devices, visible_devices(absent).certain) == ((), True)
    by_number = dataclasses.replace(named, variables=(("CUDA_VISIBLE_DEVICES", "0"),))
    assert (visible_devices(by_number).devices, visible_devices(by_number).certain) == (parts, False)
    # Where NVML would not list the parts, which of them is meant is not known.
    whole = dataclasses.replace(machine(0, CUDA_VISIBLE_DEVICES="MIG-1"), devices=(gpu(0, mig=True),))
    assert not visible_devices(whole).certain


@settings(deadline=None)  # no test depends on a time
@given(st.text(alphabet="0123456789,-+ GPUMIGabc", max_size=30), st.integers(0, 4))
def test_no_value_shows_a_device_twice_or_one_that_is_not_there(value: str, count: int) -> None:
    here = machine(count, CUDA_VISIBLE_DEVICES=value)
    found = visible_devices(here)
    assert len(set(found.devices)) == len(found.devices)
    assert set(found.devices) <= set(here.devices)


def unread(what: str, code: str, reason: str = "said so") -> Unavailable:
    return Unavailable(what=what, reason=reason, code=code)


def without(**changes: object) -> Machine:
    nothing: dict[str, object] = {"devices": ()}
    return dataclasses.replace(machine(1), **{**nothing, **changes})  # type: ignore[arg-type]


NO_LIBRARY = (unread("nvml", "NVML_ERROR_LIBRARY_NOT_FOUND"),)
NOT_LOADED = Driver(loaded=False)


@pytest.mark.parametrize(
    ("here", "cause", "words"),
    [
        (Machine(os="macos", arch="aarch64"), Cause.NO_GPU_VISIBLE, "macOS"),
        (
            without(nvidia_hardware=False, driver=NOT_LOADED, unavailable=NO_LIBRARY),
            Cause.NO_GPU_VISIBLE,
            "No NVIDIA GPU is on the PCI bus",
        ),
        (without(driver=NOT_LOADED, unavailable=NO_LIBRARY), Cause.DRIVER_BROKEN, "not installed or not loaded"),
        (
            without(driver=NOT_LOADED, unavailable=(*NO_LIBRARY, unread("kernel modules", "nouveau"))),
            Cause.DRIVER_BROKEN,
            "nouveau",
        ),
        (without(container="docker", unavailable=NO_LIBRARY), Cause.NO_GPU_VISIBLE, "this container was not given"),
        (without(device_files=False, unavailable=NO_LIBRARY), Cause.DRIVER_BROKEN, "device files are missing"),
        (
            without(wsl=True, device_files=False, nvidia_hardware=None, driver=Driver(), unavailable=NO_LIBRARY),
            Cause.NO_GPU_VISIBLE,
            "/dev/dxg",
        ),
        (
            without(os="windows", nvidia_hardware=None, driver=Driver(), device_files=None, unavailable=NO_LIBRARY),
            Cause.NO_GPU_VISIBLE,
            "cannot be read",
        ),
        (
            without(unavailable=(unread("nvml", "NVML_ERROR_LIB_RM_VERSION_MISMATCH", "library is 570.1"),)),
            Cause.DRIVER_BROKEN,
            "580.159.04",
        ),
        (without(unavailable=(unread("nvml", "NVML_ERROR_GPU_IS_LOST"),)), Cause.HARDWARE_FAULT, "lost"),
        (without(unavailable=(unread("nvml", "NVML_ERROR_NO_PERMISSION"),)), Cause.NO_GPU_VISIBLE, "may not talk"),
        (without(unavailable=(unread("nvml", "timeout"),)), Cause.DRIVER_BROKEN, "failed"),
        (without(unavailable=(unread("nvml", "crashed"),)), Cause.DRIVER_BROKEN, "failed"),
        (without(unavailable=(unread("devices", "NVML_ERROR_GPU_IS_LOST"),)), Cause.HARDWARE_FAULT, "lost"),
        (without(unavailable=(unread("devices", "timeout"),)), Cause.DRIVER_BROKEN, "list of GPUs"),
        (without(), Cause.DRIVER_BROKEN, "does not drive it (kernel modules: open)"),
        (without(container="docker"), Cause.NO_GPU_VISIBLE, "lists no GPU"),
        (machine(1, CUDA_VISIBLE_DEVICES="-1"), Cause.NO_GPU_VISIBLE, "hides every GPU"),
        (
            dataclasses.replace(machine(1), unavailable=(unread("libcuda", "not-found"),), container="docker"),
            Cause.NO_GPU_VISIBLE,
            "not libcuda",
        ),
        (
            dataclasses.replace(machine(1), unavailable=(unread("cuInit", "CUDA_ERROR_DEVICE_UNAVAILABLE"),)),
            Cause.DEVICE_BUSY,
            "in use",
        ),
        (
            dataclasses.replace(machine(1), unavailable=(unread("cuInit", "CUDA_ERROR_ECC_UNCORRECTABLE"),)),
            Cause.HARDWARE_FAULT,
            "fault",
        ),
        (
            dataclasses.replace(machine(1), unavailable=(unread("cuInit", "CUDA_ERROR_STUB_LIBRARY"),)),
            Cause.DRIVER_BROKEN,
            "stub",
        ),
    ],
)
def test_why_no_gpu_can_be_used(here: Machine, cause: Cause, words: str) -> None:
    found = diagnose_blocked(here)
    assert found is not None
    assert found.cause is cause
    assert words in found.reason
    assert found.next_step.endswith(".")


def test_nothing_stands_in_the_way_of_a_healthy_machine() -> None:
    assert diagnose_blocked(machine(1)) is None
    assert diagnose_blocked(machine(2, CUDA_VISIBLE_DEVICES="0")) is None


@pytest.mark.parametrize(
    ("name", "path", "version", "words"),
    [
        ("libcuda", "/usr/lib/libcuda.so.580.159.04", "580.159.04", None),
        ("libcuda", "/usr/lib/wsl/lib/libcuda.so.1", None, None),
        ("libcuda", "/usr/local/cuda/compat/libcuda.so.590.1", "590.1", "cuda-compat"),
        ("libcuda", "/opt/x/libcuda.so.570.1", "570.1", "not that driver's own"),
        ("libnvidia-ml", "/opt/compat/libnvidia-ml.so.590.1", "590.1", "not that driver's own"),
    ],
)
def test_a_library_of_another_driver_is_named(name: str, path: str, version: str | None, words: str | None) -> None:
    library = DriverLibrary(name=name, path=path, version=version)
    found = foreign_libraries(dataclasses.replace(machine(1), libraries=(library,)))
    assert len(found) == (words is not None)
    assert all(str(words) in one for one in found)


def test_a_mismatch_inside_a_container_says_to_restart_it() -> None:
    found = diagnose_blocked(
        without(container="docker", unavailable=(unread("nvml", "NVML_ERROR_LIB_RM_VERSION_MISMATCH"),))
    )
    assert found is not None
    assert "container" in found.next_step
