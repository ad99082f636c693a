"""The device is the one that was asked for, or a named cause."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from ongpu.errors import BlockedError
from ongpu.training import device as devices


def _pci(root: Path, vendor: str, kind: str) -> None:
    folder = root / "sys/bus/pci/devices/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(kind + "\n")
    (root / "sys/class").mkdir()


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x020700", False),  # a network adapter of the same vendor
        ("0x1002", "0x030000", False),
    ],
)
def test_an_nvidia_gpu_is_a_display_controller_of_that_vendor(
    tmp_path: Path, *, vendor: str, kind: str, found: bool
) -> None:
    _pci(tmp_path, vendor, kind)
    assert devices.nvidia_hardware(root=tmp_path, platform="linux") is found


def test_other_signs_of_a_gpu(tmp_path: Path) -> None:
    assert devices.nvidia_hardware(root=tmp_path / "nothing readable", platform="linux") is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    assert devices.nvidia_hardware(root=tmp_path, platform="linux") is None
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/wsl/lib/libcuda.so.1").touch()
    assert devices.nvidia_hardware(root=tmp_path, platform="linux") is True
    (tmp_path / "dev/nvidia0").touch()
    assert devices.nvidia_hardware(root=tmp_path, platform="linux") is True
    assert devices.nvidia_hardware(root=tmp_path, platform="darwin") is False


cpu_build = pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU-only torch")


@cpu_build
@pytest.mark.parametrize(
    ("requested", "hardware", "cause"),
    [
        ("cuda", False, "no-gpu-visible"),
        ("cuda", True, "cpu-only-torch"),
        ("cuda", None, "cpu-only-torch"),
        ("auto", True, "cpu-only-torch"),
        ("auto", None, "cpu-only-torch"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_named_cause(*, requested: str, hardware: bool | None, cause: str) -> None:
    with pytest.raises(BlockedError) as caught:
        devices.choose(requested, hardware=hardware, variables={})
    assert (caught.value.cause, caught.value.exit_status) == (cause, 3)


@pytest.mark.parametrize(("requested", "hardware"), [("cpu", True), ("cpu", None), ("cpu", False), ("auto", False)])
def test_the_cpu_is_taken_when_asked_for_or_when_there_is_nothing_else(
    *, requested: str, hardware: bool | None
) -> None:
    assert devices.choose(requested, hardware=hardware, variables={}).kind == "cpu"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("CUDA error: no kernel image is available for execution on the device", "wheel-no-arch"),
        ("Torch not compiled with CUDA enabled", "cpu-only-torch"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "driver-too-old"),
        ("No CUDA GPUs are available", "no-gpu-visible"),
        ("Found no NVIDIA driver on your system.", "driver-broken"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "driver-broken"),
        ("Error 804: forward compatibility was attempted on non supported HW", "driver-broken"),
        ("CUDA driver initialization failed, you might not have a CUDA gpu.", "driver-broken"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", "out-of-memory"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "device-busy"),
        ("CUDA error: uncorrectable ECC error encountered", "hardware-fault"),
        ("something else", "undetermined"),
    ],
)
def test_the_text_of_a_cuda_error_names_its_cause(text: str, cause: str) -> None:
    error = devices.explain_failure(RuntimeError(text), variables={})
    assert error.cause == cause
    assert error.lines == (text,)


def test_hidden_gpus_are_named_by_their_variable() -> None:
    error = devices.explain_failure(
        RuntimeError("No CUDA GPUs are available"), variables={"CUDA_VISIBLE_DEVICES": "-1"}
    )
    assert "CUDA_VISIBLE_DEVICES is set to '-1'" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "\nNVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation."
        "\nThe current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.\n",
        "\nFound GPU0 NVIDIA GeForce GTX 1080 Ti which is of cuda capability 6.1.\nMinimum and Maximum cuda capability "
        "supported by this version of PyTorch is (7.5) - (12.0)\n",
    ],
)
def test_a_warning_about_an_unsupported_gpu_ends_the_run(text: str) -> None:
    with pytest.raises(BlockedError) as caught:
        devices.refuse_unsupported(["harmless", text])
    assert caught.value.cause == "wheel-no-arch"
    devices.refuse_unsupported(["harmless", "lr_scheduler.step() was called early"])


def test_warnings_are_collected_and_still_shown() -> None:
    with pytest.warns(UserWarning, match="sm_20"), devices.watched_warnings() as seen:
        warnings.warn("GPU with CUDA capability sm_20 is not compatible", stacklevel=1)
    assert seen == ["GPU with CUDA capability sm_20 is not compatible"]
    with pytest.raises(BlockedError):
        devices.refuse_unsupported(seen)
