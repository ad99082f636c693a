"""The children themselves, and the way they are led: real processes, stand-in torches, the real check of a product."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import DoorError
from ongpu.machine.nvml import NvmlDevice, ProcessMemory
from ongpu.machine.process import RealProcesses
from ongpu.payload import matmul_check
from ongpu.smoke import PAYLOAD, run_smoke
from ongpu.smoke.judge import bound

pytestmark = pytest.mark.process
UUID = "11111111-2222-4333-8444-555555555555"
PROCESSES = RealProcesses(term_grace_s=0.5)

# The parts of torch that torch_cuda_check asks for, without a GPU; each test puts its own failure in.
TORCH = """
import types, warnings
__version__ = "2.13.0+cu130"
version = types.SimpleNamespace(cuda="13.0", hip=None)
backends = types.SimpleNamespace(cudnn=types.SimpleNamespace(version=lambda: 91200))
_C = types.SimpleNamespace(_cuda_getArchFlags=lambda: "sm_75 sm_120")
class Tensor:
    def __init__(self, value): self.value = value
    def __add__(self, other): return Tensor(self.value + other)
    def sum(self): return Tensor(self.value * 1024)
    def item(self): return self.value
def ones(count, device): return Tensor(1.0)
cuda = types.SimpleNamespace(
    is_available=lambda: True, init=lambda: None, device_count=lambda: 1,
    get_device_properties=lambda index: types.SimpleNamespace(uuid="%s", total_memory=32 << 30),
    get_device_capability=lambda index: (12, 0), get_device_name=lambda index: "NVIDIA GeForce RTX 5090",
    get_arch_list=lambda: [],
)
""".replace("%s", UUID)


def smoke_with(tmp_path: Path, change: str) -> Any:
    (tmp_path / "torch.py").write_text(TORCH + textwrap.dedent(change))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return run_smoke(
        python=Path(sys.executable), uuid=f"GPU-{UUID}", nvml=None, processes=PROCESSES, environment=environment
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("def ones(count, device): raise RuntimeError('CUDA error: no kernel image is available')", "wheel-no-arch"),
        (
            "cuda.init = lambda: warnings.warn('X is not compatible with the current PyTorch installation')",
            "wheel-no-arch",
        ),
        ("def refuse(): raise RuntimeError('No CUDA GPUs are available')\ncuda.init = refuse", "no-gpu-visible"),
        ("cuda.is_available = lambda: False", "undetermined"),
        (
            "import sys\nsys.stderr.write('X with CUDA capability sm_120 is not compatible with the current PyTorch"
            " installation')",
            "wheel-no-arch",
        ),
        ("version.cuda = None\nversion.hip = '6.4'", "cpu-only-torch"),
        ("raise ImportError('libcudnn.so.9: cannot open shared object file')", "python-env"),
        ("import os\nos._exit(3)", "undetermined"),
    ],
)
def test_torch_that_cannot(tmp_path: Path, change: str, cause: str) -> None:
    report = smoke_with(tmp_path, change)
    assert report.checks[0].outcome is not Outcome.PROVEN
    assert report.outcome is not Outcome.PROVEN
    assert report.cause == cause
    assert [one.outcome for one in report.checks[1:]] == [Outcome.UNKNOWN] * 3
    assert report.texts["torch_cuda_check.txt"]


def test_the_text_says_what_the_milestone_asks_for(tmp_path: Path) -> None:
    # The products then fail, since the stand-in has no matrices: refuted, and no traceback here.
    report = smoke_with(tmp_path, "")
    assert report.checks[0].outcome is Outcome.PROVEN
    assert [one.outcome for one in report.checks[1:]] == [Outcome.REFUTED, Outcome.REFUTED, Outcome.UNKNOWN]
    text = report.texts["torch_cuda_check.txt"]
    for line in (
        "torch version: 2.13.0+cu130",
        "torch.cuda.is_available(): True",
        "device 0 name: NVIDIA GeForce RTX 5090",
        "device 0 compute_capability: 12.0",
        "arch list: sm_75 sm_120",
        "device 0 runs a kernel: yes",
    ):
        assert line in text
    assert report.torch is not None
    assert "CUDA driver version: " in text


def test_a_python_that_is_none(tmp_path: Path) -> None:
    report = run_smoke(
        python=tmp_path / "python", uuid=None, nvml=None, processes=PROCESSES, environment=dict(os.environ)
    )
    assert (report.outcome, report.cause) == (Outcome.UNKNOWN, Cause.PYTHON_ENV)


class OneGpu:
    """NVML with one GPU: lists the process that is named to it, and counts how often it was asked."""

    def __init__(self, listed: tuple[ProcessMemory, ...] | DoorError, *, used: tuple[int, int] = (0, 0)) -> None:
        self.listed = listed
        self.used = list(used)
        self.asked = 0

    def kernel_mode_version(self) -> str:
        return "580.159.04"

    def devices(self) -> tuple[NvmlDevice, ...]:
        return (
            NvmlDevice(
                index=0,
                uuid=f"GPU-{UUID}",
                name="NVIDIA GeForce RTX 5090",
                memory_bytes=32 << 30,
                compute_capability=ComputeCapability(12, 0),
                pci_bus_id=None,
                mig=False,
            ),
        )

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        assert uuid == f"GPU-{UUID}"
        self.asked += 1
        if isinstance(self.listed, DoorError):
            raise self.listed
        return self.listed

    def memory_used(self, uuid: str) -> int:
        return self.used.pop(0)

    def utilization(self, uuid: str) -> int:
        return 0

    def power_mw(self, uuid: str) -> int:
        return 0

    def energy_mj(self, uuid: str) -> int:
        return 0

    def close(self) -> None:
        pass


# Stands for the environment's python: canned answers, but a real process with a real pid that really waits.
PYTHON = """#!{python} -IS
import json, os, sys, time
if "torch_cuda_check" in sys.argv[1]:
    print('ongpu-result: ' + json.dumps({reading!r}))
    sys.exit()
sys.stderr.write("a warning without an end of line")
print(json.dumps({{"event": "holding", "pid": os.getpid(), "ppid": os.getppid(), "uuid": "{uuid}",
    "device": "cuda:0", "allocated_bytes": 300, "reserved_bytes": 400}}), flush=True)
release = sys.argv[sys.argv.index("--release") + 1]
for _ in range(1000):
    if os.path.exists(release): break
    time.sleep(0.01)
else:
    sys.exit("never released")
for dtype, error in (("float32", 4e-7), ("bfloat16", 1.7e-3)):
    print(json.dumps({{"event": "product", "dtype": dtype, "size": 4096, "seed": 1, "device": "cuda:0", "seconds": 1.0,
        "tflops": 1.0, "not_finite": 0, "rows": 64, "rows_error": error, "projected_error": error}}))
"""
READING = {
    "python": "3.12.3", "torch": "2.13.0+cu130", "cuda": "13.0", "hip": None, "cudnn": 91200, "driver": "13.0",
    "is_available": True, "arch_list": ["sm_120"], "kernel": [None], "warnings": [], "error": None,
    "devices": [{"index": 0, "name": "NVIDIA GeForce RTX 5090", "uuid": UUID, "compute_capability": "12.0",
                 "memory_bytes": 32 << 30}],
}  # fmt: skip


class Lists(OneGpu):
    """Lists the child by the pid the test's own process table has for it: whoever waits below us."""

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        import psutil

        self.asked += 1
        children = psutil.Process().children()
        return tuple(ProcessMemory(pid=one.pid, used_bytes=1000) for one in children if self.asked > 2)


def led(tmp_path: Path, nvml: OneGpu | None, *, uuid: str | None = f"GPU-{UUID}") -> Any:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, reading=READING, uuid=UUID))
    python.chmod(0o755)
    return run_smoke(
        python=python, uuid=uuid, nvml=nvml, processes=PROCESSES, environment=dict(os.environ), timeout_s=60
    )


def test_nvml_is_asked_while_the_child_holds_its_memory_and_until_it_lists_it(tmp_path: Path) -> None:
    nvml = Lists((), used=(0, 1000))
    report = led(tmp_path, nvml)
    assert [one.outcome for one in report.checks] == [Outcome.PROVEN] * 4
    assert (report.outcome, report.cause) == (Outcome.PROVEN, None)
    assert nvml.asked == 3
    memory = report.checks[3]
    assert memory.figures["used_bytes"] == 1000
    assert memory.figures["device_rise_bytes"] == 1000


def test_where_no_gpu_is_asked_for_the_one_that_torch_took_is_looked_at(tmp_path: Path) -> None:
    report = led(tmp_path, Lists((), used=(0, 1000)), uuid=None)
    assert report.outcome is Outcome.PROVEN
    assert report.checks[3].figures["device_rise_bytes"] == 1000


def test_a_list_that_cannot_be_read_leaves_it_unknown_and_lets_the_child_go_on(tmp_path: Path) -> None:
    refused = DoorError(door="nvml", code="NVML_ERROR_NO_PERMISSION", reason="Insufficient Permissions")
    report = led(tmp_path, OneGpu(refused, used=(0, 0)))
    assert [one.outcome for one in report.checks] == [Outcome.PROVEN] * 3 + [Outcome.UNKNOWN]
    assert "NVML_ERROR_NO_PERMISSION" in report.checks[3].reason


def test_a_folder_that_cannot_be_made_leaves_it_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    report = led(tmp_path, None)
    assert [one.outcome for one in report.checks] == [Outcome.PROVEN] + [Outcome.UNKNOWN] * 3
    assert "No such file or directory" in report.checks[1].reason


def test_without_nvml_the_process_is_unknown(tmp_path: Path) -> None:
    report = led(tmp_path, None)
    assert report.checks[3].outcome is Outcome.UNKNOWN
    assert report.outcome is Outcome.UNKNOWN


def test_a_dtype_that_the_gpu_refuses_does_not_take_the_other_with_it(torch: Any, capsys: Any, tmp_path: Path) -> None:
    def product(module: Any, device: Any, dtype: str, size: int) -> dict[str, Any]:
        if dtype == "bfloat16":
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return PRODUCT(module, device, dtype, size)

    release = tmp_path / "release"
    release.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul_check, "product", product)
        patch.setattr(sys, "argv", ["x", "--release", str(release), "--device", "cpu", "--size", "64"])
        matmul_check.main()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one.get("dtype")) for one in events] == [
        ("error", "bfloat16"),
        ("holding", None),
        ("product", "float32"),
        ("done", None),
    ]


PRODUCT = matmul_check.product

# From here on the real check of a product, with the real torch, on the CPU.


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def checked(torch: Any, dtype: str, size: int = 512) -> dict[str, Any]:
    return matmul_check.check(torch, matmul_check.product(torch, torch.device("cpu"), dtype, size))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_product_is_below_its_bound(torch: Any, dtype: str) -> None:
    found = checked(torch, dtype)
    assert found["not_finite"] == 0
    assert found["bound"] == bound(dtype, 512)
    assert 0 < found["rows_error"] <= found["bound"]
    assert 0 < found["projected_error"] <= found["bound"]


def test_seeds_are_fresh(torch: Any) -> None:
    assert checked(torch, "float32", 64)["seed"] != checked(torch, "float32", 64)["seed"]


def planted(torch: Any, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> dict[str, Any]:
    right = torch.matmul
    fired = []

    def matmul(a: Any, b: Any, *, out: Any) -> None:
        fired.append(True)
        wrong(right, a, b, out)

    monkeypatch.setattr(torch, "matmul", matmul)
    done = matmul_check.product(torch, torch.device("cpu"), "float32", 512)
    monkeypatch.undo()
    assert fired
    return matmul_check.check(torch, done)


def tf32(torch: Any, values: Any) -> Any:
    """Round to the ten bits of mantissa that TF32 keeps."""
    bits = values.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_a_product_in_tf32_is_above_the_bound_of_float32(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(torch, monkeypatch, lambda right, a, b, out: right(tf32(torch, a), tf32(torch, b), out=out))
    assert found["rows_error"] > 10 * bound("float32", 4096)
    assert found["projected_error"] > 10 * bound("float32", 4096)


def test_nothing_written_shows_as_not_finite(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(torch, monkeypatch, lambda right, a, b, out: None)
    assert found["not_finite"] == 512 * 512
    assert not found["rows_error"] <= found["bound"]


def test_one_wrong_row_of_512_shows_even_where_no_sampled_row_has_it(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(right: Any, a: Any, b: Any, out: Any) -> None:
        right(a, b, out=out)
        out[17] = out[18]

    found = planted(torch, monkeypatch, wrong)
    assert found["projected_error"] > found["bound"]


def test_the_other_order_is_another_product(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(torch, monkeypatch, lambda right, a, b, out: right(b, a, out=out))
    assert found["rows_error"] > 1
    assert found["projected_error"] > 1


def test_the_child_waits_for_its_release_and_says_so_if_nobody_comes(tmp_path: Path) -> None:
    script = str(PAYLOAD / "matmul_check.py")
    release = tmp_path / "release"
    common = (sys.executable, script, "--release", str(release), "--device", "cpu", "--size", "64", "--wait-s", "30")
    held: list[bool] = []

    def look(chunk: bytes) -> None:
        if b'"holding"' in chunk:
            held.append(release.exists())
            release.write_text("go")

    done = PROCESSES.run(common, timeout_s=110, on_output=look)
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert (held, events) == ([False], ["holding", "product", "product", "done"])
    release.unlink()
    alone = PROCESSES.run((*common[:-1], "0.2"), timeout_s=110)
    assert [json.loads(line)["event"] for line in alone.stdout.splitlines()] == ["holding", "error"]


def test_a_gpu_that_torch_does_not_name_is_not_taken_for_another() -> None:
    import types

    def torch_with(*uuids: str) -> Any:
        cuda = types.SimpleNamespace(
            init=lambda: None,
            device_count=lambda: len(uuids),
            get_device_properties=lambda index: types.SimpleNamespace(uuid=uuids[index]),
        )
        return types.SimpleNamespace(__version__="2.4.1", cuda=cuda, device=lambda kind, index=0: (kind, index))

    wanted = argparse.Namespace(device="cuda", uuid=f"GPU-{UUID}")
    assert matmul_check.choose(torch_with("other", UUID), wanted)[0] == ("cuda", 1)
    assert matmul_check.choose(torch_with(""), wanted)[0] == ("cuda", 0)
    with pytest.raises(RuntimeError, match="No CUDA GPUs are available"):
        matmul_check.choose(torch_with("other"), wanted)
    with pytest.raises(RuntimeError, match="names its GPUs by number only"):
        matmul_check.choose(torch_with("", ""), wanted)
