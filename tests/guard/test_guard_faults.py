"""The whole chain against a stand-in driver, and the driver failing in the middle: never a false proof, never a hang.

The stand-in is a real ``libnvidia-ml.so.1`` built from ``standin_guard.c``; every fault is asserted to have bitten.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ongpu.guard import watcher
from tests.guard.guard_harness import PYTHON, Guarded, environment, prove

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in driver is a Linux library"),
]
HERE = Path(__file__).parent
UUID = "GPU-99999999-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in driver with")
    folder = tmp_path_factory.mktemp("driver")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(HERE / "standin_guard.c")], check=True)
    return folder


Prove = Callable[..., Guarded]


@pytest.fixture
def pretended(driver: Path, tmp_path: Path) -> Prove:
    """Guard the pretended trainer with the stand-in driver in a mode."""

    def run(
        mode: str = "ok",
        *,
        after: int = 0,
        seconds: float = 1.2,
        say: str = "all",
        train: str | None = None,
        **changes: Any,
    ) -> Guarded:
        variables = {
            "STANDIN_STATE": str(tmp_path / "state"),
            "STANDIN_GUARD": mode,
            "STANDIN_AFTER": str(after),
            "STANDIN_FIRED": str(tmp_path / "fired"),
        }
        source = str(Path(watcher.__file__).parents[2])
        sampler = (
            "/usr/bin/env",
            *(f"{name}={value}" for name, value in variables.items()),
            f"LD_LIBRARY_PATH={driver}",
            PYTHON, "-P", "-c", watcher._START, source, "0.3",
        )  # fmt: skip
        command = [PYTHON, str(HERE / "guard_trainer.py"), str(seconds), say]
        if train is not None:
            command = [PYTHON, str(HERE / "guard_fake_training.py"), train, str(seconds)]
            variables["PYTHONPATH"] = str(HERE / "faketorch")
        here = {"devices": [{"uuid": UUID, "name": "NVIDIA H100 80GB HBM3"}], "driver": {"loaded": True}}
        guarded = prove(
            command,
            on_machine=here,
            environment=environment(**variables),
            sampler_command=sampler,
            baseline_s=0.3,
            **changes,
        )
        if mode != "ok":
            assert (tmp_path / "fired").exists(), f"the fault {mode} never bit"
        return guarded

    return run


def test_a_pretended_honest_run_goes_all_the_way(pretended: Prove) -> None:
    guarded = pretended()
    assert guarded.verdict.outcome == "proven", guarded.verdict.reason
    assert guarded.verdict.level == "process"
    assert {one.name: one.state for one in guarded.verdict.witnesses} == dict.fromkeys(("W1", "W2", "W4"), "confirmed")
    assert [one.kind for one in guarded.events] == ["started", "first-step-on-cuda"]
    assert guarded.result.sampler_error is None


def test_a_run_of_a_fifth_of_a_second_is_still_seen(pretended: Prove) -> None:
    guarded = pretended(seconds=0.25)
    assert guarded.witness("W2").state == "confirmed", guarded.witness("W2").reason


def test_hidden_memory_is_judged_at_the_device(pretended: Prove) -> None:
    guarded = pretended("hidden")
    assert guarded.verdict.outcome == "proven" and guarded.verdict.level == "device"
    assert "another program could have caused" in guarded.witness("W2d").reason


@pytest.mark.parametrize("mode", ["nolist", "empty"])
def test_no_list_is_judged_at_the_device(pretended: Prove, mode: str) -> None:
    guarded = pretended(mode)
    assert guarded.verdict.outcome == "proven" and guarded.verdict.level == "device"


@pytest.mark.parametrize("mode", ["outer", "other"])
def test_other_pids_are_not_ours(pretended: Prove, mode: str) -> None:
    guarded = pretended(mode)
    assert guarded.verdict.outcome == "unknown"
    assert "never lists" in guarded.witness("W2").reason


@pytest.mark.parametrize(("mode", "after"), [("denied", 0), ("denied", 5), ("lost", 3), ("lost", 8)])
def test_a_driver_that_refuses_proves_nothing(pretended: Prove, mode: str, after: int) -> None:
    guarded = pretended(mode, after=after)
    assert guarded.result.status == 0
    assert guarded.verdict.outcome == "unknown"
    codes = {one["code"] for one in guarded.memory.of("nvml.error")}
    assert codes & {"NVML_ERROR_NO_PERMISSION", "NVML_ERROR_GPU_IS_LOST"}


@pytest.mark.parametrize("after", [0, 4])
def test_a_driver_that_crashes_takes_only_the_sampler_along(pretended: Prove, after: int) -> None:
    guarded = pretended("segv", after=after)
    assert guarded.result.status == 0
    assert guarded.result.sampler_error == "the sampler ended with signal 11"
    assert guarded.witness("W2").state == "error"
    assert guarded.verdict.outcome == "unknown"


def test_a_driver_that_hangs_holds_nobody(pretended: Prove) -> None:
    began = time.monotonic()
    guarded = pretended("hang", after=4, seconds=7.0)
    assert time.monotonic() - began < 25
    assert guarded.result.status == 0
    assert "timeout" in {one["code"] for one in guarded.memory.of("nvml.error")}
    assert guarded.verdict.outcome == "unknown"


@pytest.mark.parametrize(("mode", "state"), [("no-energy", "unavailable"), ("energy-back", "error")])
def test_energy_never_decides(pretended: Prove, mode: str, state: str) -> None:
    guarded = pretended(mode, after=2, seconds=2.5)
    assert guarded.witness("W4").state == state
    assert guarded.verdict.outcome == "proven"


def test_a_silent_program_proves_computing_at_most(pretended: Prove) -> None:
    guarded = pretended(say="nothing", seconds=2.5)
    assert guarded.claim("computed-on-gpu") == "proven"
    assert guarded.claim("trained-on-gpu") == "unknown"
    assert guarded.verdict.outcome == "unknown"
    assert "whether it trained stays unknown" in guarded.verdict.reason


def test_a_silent_program_beside_another_computes_nothing(pretended: Prove) -> None:
    guarded = pretended("other", say="nothing", seconds=2.5)
    assert guarded.claim("computed-on-gpu") == "unknown"


def test_fail_fast_waits_for_who_is_listed(pretended: Prove) -> None:
    guarded = pretended(say="nothing", seconds=2.0, fail_fast_s=1.0)
    assert guarded.result.stopped is None and guarded.result.status == 0


def test_interrupted_runs_are_never_proven(pretended: Prove) -> None:
    import signal
    import threading

    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    guarded = pretended(seconds=10.0)
    assert guarded.result.interrupted
    assert not any(one.outcome == "proven" for one in guarded.verdict.claims)


def test_the_hook_in_a_pretended_torch_goes_all_the_way(pretended: Prove) -> None:
    guarded = pretended(train="cuda", expect_gpu="H100 80GB HBM3", seconds=2.5)
    assert guarded.verdict.outcome == "proven", guarded.verdict.reason
    sample = guarded.memory.hooks("step")[-1]
    assert sample["parameters"] == sample["gradients"] == {"cuda:0": 256 << 20}
    assert sample["state"] == {"cuda:0": 512 << 20} and sample["scalars_excluded"] == 4
    assert sample["devices"][0]["uuid"] == "GPU-99999999-2222-4333-8444-555555555555"
    assert sample["devices"][0]["reserved_bytes"] == 2 << 30


# From its first step on, the pretended training launches kernels.
KERNELS = """
from torch.autograd.profiler import launch
plain = optimizer.step
optimizer.step = lambda: (launch("gemm"), launch("relu"), plain())
"""


@pytest.mark.parametrize(("mode", "level"), [("ok", "process"), ("nothing", "device")])
@pytest.mark.parametrize("kernels", [KERNELS, ""], ids=["kernels", "none"])
def test_a_trace_in_a_pretended_torch(
    pretended: Prove, monkeypatch: pytest.MonkeyPatch, mode: str, level: str, kernels: str
) -> None:
    monkeypatch.setenv("PRETENDED_AT", "1")
    monkeypatch.setenv("PRETENDED_CODE", kernels)
    guarded = pretended(mode, train="cuda", trace_steps=3)
    expected = ("proven", level, "confirmed") if kernels else ("refuted", None, "contradicted")
    verdict = guarded.verdict
    assert (verdict.outcome, verdict.level, guarded.witness("W5").state) == expected, verdict.reason
    assert guarded.witness("W2").state == ("confirmed" if mode == "ok" else "unavailable")


def test_where_nothing_is_told_and_nothing_traced_it_stays_unknown(pretended: Prove) -> None:
    guarded = pretended("nothing", train="cuda")
    assert guarded.verdict.outcome == "unknown", guarded.verdict.reason


@pytest.mark.parametrize("how", ["cpu", "warm-up", "one-step-on-cpu"])
def test_decoys_in_a_pretended_torch_are_refuted(pretended: Prove, how: str) -> None:
    guarded = pretended(train=how)
    assert guarded.verdict.outcome == "refuted", guarded.verdict.reason
    assert guarded.witness("W1").state == "contradicted"


@pytest.mark.parametrize("how", ["killed", "fails", "no-statistics"])
def test_what_ends_badly_in_a_pretended_torch_is_unknown(pretended: Prove, how: str) -> None:
    guarded = pretended(train=how)
    assert guarded.verdict.outcome == "unknown", guarded.verdict.reason
    assert guarded.result.hook_seen
