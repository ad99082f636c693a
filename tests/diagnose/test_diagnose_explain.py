"""Facts of a log, put to the planner."""

from ongpu.domain.build import DecisionKind
from ongpu.domain.verdict import Cause
from ongpu.explain import explain

_TOO_OLD = b"""PyTorch version: 2.14.1+cu130
GPU 0: NVIDIA A100-SXM4-80GB
| NVIDIA-SMI 550.144.03     Driver Version: 550.144.03     CUDA Version: 12.4 |
UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 12040).
"""
_NO_ARCH = b"""torch 2.5.1+cu124
NVIDIA GeForce RTX 5090
Driver Version: 580.95.05
RuntimeError: CUDA error: no kernel image is available for execution on the device
"""


def test_a_driver_below_the_runtime_is_at_odds_and_an_older_build_is_advised() -> None:
    told = explain(_TOO_OLD)
    assert told.diagnosis.cause is Cause.DRIVER_TOO_OLD
    assert [axis.cause for axis in told.at_odds] == [Cause.DRIVER_TOO_OLD]
    assert told.advised is not None
    assert told.advised.decision is DecisionKind.PREBUILT
    assert (told.advised.cuda_tag or "").startswith("cu12")


def test_a_build_without_code_for_the_gpu_is_at_odds() -> None:
    told = explain(_NO_ARCH)
    assert told.diagnosis.cause is Cause.WHEEL_NO_ARCH
    assert Cause.WHEEL_NO_ARCH in [axis.cause for axis in told.at_odds]


def test_a_log_without_a_gpu_is_not_put_to_the_planner() -> None:
    told = explain(b"AssertionError: Torch not compiled with CUDA enabled\n")
    assert (told.named, told.advised, told.at_odds) == (None, None, ())
    assert told.unasked == ("the log names no GPU",)


def test_what_cannot_be_judged_is_said() -> None:
    told = explain(b"torch 2.6.0+cpu\nNVIDIA GeForce RTX 4090\nUsing device: cpu\n")
    assert told.named is None
    assert any("CPU build" in one for one in told.unasked)
    assert told.advised is not None
