"""What the children say is judged here: every lie, gap and failure must show."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.verdict import Cause, Outcome
from ongpu.machine.nvml import ProcessMemory
from ongpu.machine.process import Completed
from ongpu.smoke.judge import bound, classify, judge_products, judge_torch
from ongpu.smoke.look import Seen, judge_memory
from ongpu.smoke.model import Holding, SmokeCheck, SmokeReport, TorchDevice, TorchReading

UUID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
READING = TorchReading(
    python="3.12.3",
    torch="2.13.0+cu130",
    cuda="13.0",
    hip=None,
    cudnn=91200,
    driver="13.0",
    is_available=True,
    devices=(
        TorchDevice(
            index=0, name="NVIDIA GeForce RTX 5090", uuid=UUID, compute_capability="12.0", memory_bytes=32 << 30
        ),
    ),
    arch_list=("sm_75", "sm_120"),
    kernel=(None,),
    warnings=(),
    error=None,
)
# torch/cuda/__init__.py of torch 2.6 and of torch 2.13.0; cudaGetErrorString
OLD_WARNING = (
    "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.\n"
    "The current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90."
)
NEW_WARNING = (
    "Found GPU0 NVIDIA GeForce GTX 1080 Ti which is of compute capability (CC) 6.1.\n"
    "The following list shows the CCs this version of PyTorch was built for and the hardware CCs it supports:\n"
    "- 7.5 which supports hardware CC >=7.5,<8.0"
)
NO_IMAGE = "AcceleratorError: CUDA error: no kernel image is available for execution on the device\nSearch for ..."


def test_a_healthy_reading_is_proven() -> None:
    found = judge_torch(READING, uuid=f"GPU-{UUID}")
    assert (found.outcome, found.cause) == (Outcome.PROVEN, None)
    assert found.figures["compute_capability"] == "12.0"
    assert judge_torch(READING, uuid=None).outcome is Outcome.PROVEN


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"torch": None, "error": "ModuleNotFoundError: No module named 'torch'"}, Cause.PYTHON_ENV),
        (
            {"torch": None, "error": "ImportError: libcudnn.so.9: cannot open shared object file"},
            Cause.PYTHON_ENV,
        ),
        (
            {"cuda": None, "is_available": False, "error": "AssertionError: Torch not compiled with CUDA enabled"},
            Cause.CPU_ONLY_TORCH,
        ),
        ({"cuda": None, "hip": "6.4"}, Cause.CPU_ONLY_TORCH),
        ({"warnings": (OLD_WARNING,)}, Cause.WHEEL_NO_ARCH),
        ({"warnings": ("something harmless", NEW_WARNING)}, Cause.WHEEL_NO_ARCH),
        ({"kernel": (NO_IMAGE,)}, Cause.WHEEL_NO_ARCH),
        ({"kernel": ("AcceleratorError: CUDA error: out of memory",)}, Cause.OUT_OF_MEMORY),
        ({"kernel": ("1024 times (1 + 1) summed to 0.0",)}, None),
        ({"kernel": ()}, None),
        (
            {
                "is_available": False,
                "devices": (),
                "kernel": (),
                "error": "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).",
            },
            Cause.DRIVER_TOO_OLD,
        ),
        (
            {
                "is_available": False,
                "devices": (),
                "kernel": (),
                "error": "RuntimeError: Found no NVIDIA driver on your system.",
            },
            Cause.NO_GPU_VISIBLE,
        ),
        (
            {"is_available": False, "devices": (), "kernel": (), "error": "RuntimeError: No CUDA GPUs are available"},
            Cause.NO_GPU_VISIBLE,
        ),
        (
            {
                "is_available": False,
                "error": "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility"
                " was attempted on non supported HW",
            },
            Cause.CUDA_VERSION_MISMATCH,
        ),
        (
            {
                "is_available": False,
                "error": "Error 803: system has unsupported display driver / cuda driver combination",
            },
            Cause.DRIVER_BROKEN,
        ),
        ({"is_available": False, "error": None}, None),
        ({"is_available": None, "error": None}, None),
        ({"devices": (), "kernel": ()}, Cause.NO_GPU_VISIBLE),
        ({"error": "RuntimeError: something nobody has seen"}, None),
    ],
)
def test_every_failure_is_refuted_with_its_cause(changes: dict[str, Any], cause: Cause | None) -> None:
    found = judge_torch(dataclasses.replace(READING, **changes), uuid=f"GPU-{UUID}")
    assert (found.outcome, found.cause) == (Outcome.REFUTED, cause)


def test_another_gpu_is_not_the_one_asked_for() -> None:
    found = judge_torch(READING, uuid=f"GPU-{OTHER}")
    assert (found.outcome, found.cause) == (Outcome.REFUTED, Cause.NO_GPU_VISIBLE)


def test_the_kernel_that_counts_is_that_of_the_gpu_asked_for() -> None:
    second = dataclasses.replace(READING.devices[0], index=1, uuid=OTHER)
    both = dataclasses.replace(READING, devices=(READING.devices[0], second), kernel=(None, NO_IMAGE))
    assert judge_torch(both, uuid=f"GPU-{UUID}").outcome is Outcome.PROVEN
    assert judge_torch(both, uuid=f"GPU-{OTHER}").cause is Cause.WHEEL_NO_ARCH


def test_an_old_torch_names_no_gpu() -> None:
    nameless = dataclasses.replace(READING.devices[0], uuid=None)
    assert judge_torch(dataclasses.replace(READING, devices=(nameless,)), uuid=f"GPU-{UUID}").outcome is Outcome.PROVEN
    two = dataclasses.replace(READING, devices=(nameless, dataclasses.replace(nameless, index=1)), kernel=(None, None))
    assert judge_torch(two, uuid=f"GPU-{UUID}").outcome is Outcome.UNKNOWN
    assert judge_torch(two, uuid=None).outcome is Outcome.PROVEN


def test_a_warning_about_another_gpu_does_not_count() -> None:
    old = TorchDevice(index=1, name="NVIDIA GeForce GTX 1080 Ti", uuid=OTHER, compute_capability="6.1", memory_bytes=1)
    warned = NEW_WARNING.replace("GPU0", "GPU1")
    both = dataclasses.replace(READING, devices=(READING.devices[0], old), kernel=(None, NO_IMAGE), warnings=(warned,))
    assert judge_torch(both, uuid=f"GPU-{UUID}").outcome is Outcome.PROVEN
    assert judge_torch(both, uuid=f"GPU-{OTHER}").cause is Cause.WHEEL_NO_ARCH
    named = dataclasses.replace(both, warnings=(OLD_WARNING.replace("RTX 5090", "GTX 1080 Ti"),))
    assert judge_torch(named, uuid=f"GPU-{UUID}").outcome is Outcome.PROVEN
    assert judge_torch(named, uuid=f"GPU-{OTHER}").cause is Cause.WHEEL_NO_ARCH


def test_a_part_of_a_gpu_is_named_as_nvml_names_it() -> None:
    assert judge_torch(READING, uuid=f"MIG-{UUID}").outcome is Outcome.PROVEN


def test_words_that_name_nothing() -> None:
    assert classify("Epoch 1, loss 2.5") is None


HOLDING = {
    "event": "holding",
    "pid": 42,
    "ppid": 41,
    "uuid": UUID,
    "device": "cuda:0",
    "allocated_bytes": 300_000_000,
    "reserved_bytes": 400_000_000,
}


def product(dtype: str, **changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "event": "product",
        "dtype": dtype,
        "size": 4096,
        "seed": 7,
        "device": "cuda:0",
        "seconds": 0.003,
        "tflops": 45.0,
        "not_finite": 0,
        "rows": 64,
        "rows_error": 4e-7 if dtype == "float32" else 1.7e-3,
        "projected_error": 4e-7 if dtype == "float32" else 1.7e-3,
        "bound": 1e9,  # what the child says of the bound does not count
    }
    return {**good, **changes}


def completed(*events: dict[str, object], status: int = 0, stderr: bytes = b"", timed_out: bool = False) -> Completed:
    stdout = "".join(json.dumps(one) + "\n" for one in events).encode()
    return Completed(argv=(), status=status, stdout=stdout, stderr=stderr, seconds=1.0, timed_out=timed_out)


def outcomes(done: Completed) -> list[Outcome]:
    return [one.outcome for one in judge_products(done, uuid=f"GPU-{UUID}")]


def test_right_products_are_proven_whatever_else_was_printed() -> None:
    done = completed(HOLDING, product("float32"), product("bfloat16"), {"event": "done"})
    noisy = dataclasses.replace(done, stdout=b"[1, 2]\nhello {\n" + done.stdout)
    assert outcomes(noisy) == [Outcome.PROVEN, Outcome.PROVEN]


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"size": 64},
        {"rows": 0},
        {"not_finite": 1},
        {"rows_error": 3e-4},  # what TF32 gives
        {"projected_error": 3e-4},
        {"rows_error": float("nan")},
        {"projected_error": float("nan")},
        {"rows_error": float("inf")},
    ],
)
def test_a_wrong_product_is_refuted(changes: dict[str, object]) -> None:
    done = completed(HOLDING, product("float32", **changes), product("bfloat16"))
    assert outcomes(done) == [Outcome.REFUTED, Outcome.PROVEN]


def test_a_product_on_a_gpu_that_was_not_named_is_refuted_where_one_was_asked_for() -> None:
    done = completed(product("float32"), product("bfloat16"))
    assert outcomes(done) == [Outcome.REFUTED, Outcome.REFUTED]
    assert [one.outcome for one in judge_products(done, uuid=None)] == [Outcome.PROVEN, Outcome.PROVEN]


def test_a_product_on_another_gpu_is_refuted() -> None:
    done = completed({**HOLDING, "uuid": OTHER}, product("float32"), product("bfloat16"))
    assert outcomes(done) == [Outcome.REFUTED, Outcome.REFUTED]


@pytest.mark.parametrize("missing", sorted(set(product("float32")) - {"event", "bound"}))
def test_a_product_that_leaves_a_figure_out_is_no_product(missing: str) -> None:
    broken = {name: value for name, value in product("float32").items() if name != missing}
    assert Outcome.PROVEN not in outcomes(completed(HOLDING, broken))


@settings(deadline=None)  # no test depends on a time
@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
def test_proven_means_below_the_bound(rows_error: float, projected_error: float) -> None:
    done = completed(HOLDING, product("float32", rows_error=rows_error, projected_error=projected_error))
    limit = bound("float32", 4096)
    good = rows_error <= limit and projected_error <= limit
    assert (outcomes(done)[0] is Outcome.PROVEN) == good


def test_what_torch_refuses_is_refuted_with_its_cause() -> None:
    checks = judge_products(completed({"event": "error", "text": NO_IMAGE}), uuid=None)
    assert [(one.outcome, one.cause) for one in checks] == [(Outcome.REFUTED, Cause.WHEEL_NO_ARCH)] * 2


def test_a_gpu_without_bfloat16_is_not_asked_for_it() -> None:
    refused: dict[str, object] = {"event": "error", "text": "CUBLAS_STATUS_NOT_SUPPORTED", "dtype": "bfloat16"}
    done = completed(refused, HOLDING, product("float32"))
    for capability, required in ((ComputeCapability(6, 1), False), (ComputeCapability(8, 0), True), (None, True)):
        single, half = judge_products(done, uuid=f"GPU-{UUID}", capability=capability)
        assert (single.outcome, half.outcome, half.required) == (Outcome.PROVEN, Outcome.REFUTED, required)
        report = SmokeReport(checks=(single, half), torch=None, texts={})
        assert (report.outcome is Outcome.PROVEN) is not required


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (completed(status=-11), "signal 11"),
        (completed(status=1, stderr=b"Traceback\nModuleNotFoundError: No module named 'numpy'\n"), "numpy"),
        (completed(HOLDING, status=-9, timed_out=True), "was killed"),
        (completed(), "no result"),
    ],
)
def test_a_child_that_left_no_product_is_unknown(done: Completed, words: str) -> None:
    checks = judge_products(done, uuid=None)
    assert [one.outcome for one in checks] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert words in checks[0].reason


HELD = Holding(pid=42, ppid=41, device="cuda:0", uuid=UUID, allocated_bytes=3, reserved_bytes=400)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Seen(), Outcome.UNKNOWN),
        (Seen(pids=(42,), holding=HELD), Outcome.UNKNOWN),
        (Seen(pids=(42,), holding=HELD, listed="NVML_ERROR_NO_PERMISSION: no"), Outcome.UNKNOWN),
        (Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=42, used_bytes=400),)), Outcome.PROVEN),
        (Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=42, used_bytes=399),)), Outcome.REFUTED),
        (Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=42, used_bytes=None),)), Outcome.UNKNOWN),
        (Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=43, used_bytes=900),)), Outcome.UNKNOWN),
        (Seen(pids=(42,), holding=HELD, listed=(), rise_bytes=500), Outcome.UNKNOWN),
        (
            Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=42, used_bytes=900),), earlier=frozenset({42, 7})),
            Outcome.UNKNOWN,
        ),
        (Seen(pids=(42,), holding=HELD, listed=(), rise_bytes=0), Outcome.REFUTED),
        (
            Seen(pids=(42,), holding=HELD, listed=(ProcessMemory(pid=43, used_bytes=900),), rise_bytes=-900),
            Outcome.UNKNOWN,
        ),
        (
            Seen(
                pids=(42,),
                holding=dataclasses.replace(HELD, reserved_bytes=0),
                listed=(ProcessMemory(pid=42, used_bytes=900),),
            ),
            Outcome.REFUTED,
        ),
    ],
)
def test_memory_of_that_very_process(seen: Seen, outcome: Outcome) -> None:
    assert judge_memory(seen).outcome is outcome


def test_a_report_is_as_good_as_its_worst_check() -> None:
    good = SmokeCheck(name="a", outcome=Outcome.PROVEN, reason="")
    unknown = SmokeCheck(name="b", outcome=Outcome.UNKNOWN, reason="")
    assert SmokeReport(checks=(good,), torch=None, texts={}).cause is None
    report = SmokeReport(checks=(good, unknown), torch=None, texts={})
    assert (report.outcome, report.cause) == (Outcome.UNKNOWN, Cause.UNDETERMINED)
    assert SmokeReport(checks=(), torch=None, texts={}).outcome is Outcome.UNKNOWN
