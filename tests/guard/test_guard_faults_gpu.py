"""Faults that need a real GPU: what dies, stops, hangs or lies in the middle of a training is never proven.

Run as ``test_guard_gpu.py`` is. Numbers are those of the table in ``docs/reliability.md``; each test asserts that its
fault bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ongpu.machine.nvml import RealNvml
from tests.guard.guard_harness import PYTHON, Guarded, environment, prove, script
from tests.guard.test_guard_gpu import MODEL, proven, refuted, report, run, unknown

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
# Trains on the GPU and says when it is well under way, and who it is.
READY = """
def tell_ready(path="ready"):
    with open(path + ".new", "w") as out:
        out.write(str(os.getpid()))
    os.replace(path + ".new", path)
"""
TRAIN = MODEL + READY + "train('cuda', steps=5, seconds=0.5)\ntell_ready()\ntrain('cuda', steps=5, seconds={seconds})\n"


def said(folder: Path, name: str = "ready") -> int:
    """The pid that the program wrote when it was ready."""
    path, deadline = folder / name, time.monotonic() + 90
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return int(path.read_text())


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[list[str]]:
    """Act beside the run. The list tells that it was done: a fault that did not happen proves nothing."""
    fired: list[str] = []

    def go() -> None:
        act()
        fired.append("fired")

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    yield fired
    thread.join(10)
    assert fired, "the fault never happened"


def held_by(pid: int) -> int:
    """Bytes the driver still lists for a process, 0 for none."""
    nvml = RealNvml()
    return sum(
        one.used_bytes or 0 for device in nvml.devices() for one in nvml.processes(device.uuid) if one.pid == pid
    )


def gone(pid: int) -> None:
    """The driver forgets a process a moment after its end; it must within ten seconds."""
    deadline = time.monotonic() + 10
    while held_by(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert held_by(pid) == 0


# -- A: the GPU and its driver ---------------------------------------------------------------------------------------


def test_fault_15_devices_in_another_order_than_nvmls(tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    text = MODEL + "train('cuda:0', seconds=2.0)"
    guarded = run(tmp_path, text, environment=environment(CUDA_VISIBLE_DEVICES="1,0"))
    proven(guarded)
    ours = {one["uuid"] for step in guarded.memory.hooks("step") for one in step["devices"]}
    second = RealNvml().devices()[1].uuid
    assert ours == {second}, report(guarded)


@pytest.mark.parametrize(
    "value", ["", "-1", "GPU-00000000-0000-0000-0000-000000000000", "MIG-00000000-0000-0000-0000-000000000000"]
)
def test_fault_18_cuda_hidden_by_a_variable(tmp_path: Path, value: str) -> None:
    text = (
        MODEL
        + """
print(torch.cuda.is_available())
train('cuda' if torch.cuda.is_available() else 'cpu', width=256, seconds=0.5)
"""
    )
    guarded = run(tmp_path, text, environment=environment(CUDA_VISIBLE_DEVICES=value))
    refuted(guarded)
    assert (tmp_path / "log.txt").read_text().startswith("False")


def test_fault_19_no_kernel_for_this_gpu(tmp_path: Path) -> None:
    """A program whose only kernel is for another GPU: it starts, and its first launch fails."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        pytest.skip("needs nvcc")
    import torch

    mine = torch.cuda.get_device_capability(0)
    other = "sm_80" if mine[0] != 8 else "sm_90"
    source = tmp_path / "other.cu"
    source.write_text(
        "#include <cstdio>\n__global__ void f(int *p) { *p = 1; }\n"
        "int main() { int *p; cudaMalloc(&p, 4 << 20); f<<<1, 1>>>(p); cudaError_t e = cudaGetLastError();\n"
        "  if (e == cudaSuccess) e = cudaDeviceSynchronize();\n"
        '  fprintf(stderr, "CUDA error: %s\\n", cudaGetErrorString(e));\n'
        "  return e != cudaSuccess; }\n"
    )
    subprocess.run(
        [nvcc, f"-gencode=arch=compute_{other[3:]},code={other}", "-o", tmp_path / "other", source], check=True
    )
    guarded = prove([str(tmp_path / "other")], baseline_s=0.5, log_path=tmp_path / "log.txt")
    unknown(guarded)
    assert guarded.result.status == 1
    assert "no kernel image" in (tmp_path / "log.txt").read_text()


def test_fault_19_a_device_side_assertion(tmp_path: Path) -> None:
    wrong = "torch.zeros(4, device='cuda')[torch.tensor([9], device='cuda')]; torch.cuda.synchronize()"
    text = f"{MODEL}train('cuda', seconds=0.5)\n{wrong}"
    guarded = run(tmp_path, text)
    unknown(guarded)
    assert guarded.result.status != 0 and "device-side assert" in (tmp_path / "log.txt").read_text()


def test_fault_21_out_of_memory_ends_the_run(tmp_path: Path) -> None:
    more = "hold = [torch.empty(8 << 30, dtype=torch.uint8, device='cuda') for _ in range(99)]"
    text = f"{MODEL}train('cuda', seconds=0.5)\n{more}"
    guarded = run(tmp_path, text)
    unknown(guarded)
    assert guarded.result.status == 1 and "out of memory" in (tmp_path / "log.txt").read_text()


def test_fault_24_a_stand_in_library_for_nvml(tmp_path: Path) -> None:
    """On a machine with a real driver: who asks the stand-in hears of another GPU than torch does."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "library"
    library.mkdir()
    target = library / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, Path(__file__).parent / "standin_guard.c"], check=True)
    variables = {"LD_LIBRARY_PATH": f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    argv = [
        PYTHON,
        "-m",
        "ongpu",
        "run",
        "--evidence",
        "ev",
        "--",
        PYTHON,
        script(tmp_path, MODEL + "train('cuda', seconds=1.5)"),
    ]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, check=False)
    assert "GPU-99999999-2222-4333-8444-555555555555" in (tmp_path / "ev" / "journal.jsonl").read_text()
    assert done.returncode == 3, done.stderr
    assert "Verdict: unknown" in done.stderr, done.stderr


# -- B: the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_fault_28_killed_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    pids: list[int] = []

    def kill() -> None:
        pids.append(said(tmp_path))
        os.kill(pids[0], number)

    with meanwhile(kill):
        guarded = run(tmp_path, TRAIN.format(seconds=60))
    unknown(guarded)
    assert guarded.result.signal == number.name
    gone(pids[0])


def test_fault_29_a_gpu_that_never_ends_its_work(tmp_path: Path) -> None:
    """A kernel that spins for hours: the host waits in a call of the driver, and only SIGKILL ends that."""
    text = TRAIN.format(seconds=0.2) + "torch.cuda._sleep(1 << 45)\ntell_ready('asleep')\ntorch.cuda.synchronize()"
    pids: list[int] = []

    def interrupt() -> None:
        pids.append(said(tmp_path, "asleep"))
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    with meanwhile(interrupt):
        guarded = run(tmp_path, text, grace_s=2.0)
    unknown(guarded)
    assert guarded.result.interrupted and time.monotonic() - began < 60
    gone(pids[0])


def test_fault_30_stopped_and_continued_is_the_same_training(tmp_path: Path) -> None:
    def stop() -> None:
        pid = said(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(pid, signal.SIGCONT)

    with meanwhile(stop):
        guarded = run(tmp_path, TRAIN.format(seconds=1.5))
    proven(guarded)


def test_fault_32_a_daemon_that_keeps_the_gpu(tmp_path: Path) -> None:
    """A process that leaves the session and the tree, with 4 GiB on the GPU: followed, ended, and its memory freed."""
    daemon = (
        "import os, torch; x = torch.empty(4 << 30, dtype=torch.uint8, device='cuda'); torch.cuda.synchronize();"
        "open('daemon', 'w').write(str(os.getpid())); import time; time.sleep(300)"
    )
    text = (
        MODEL
        + f"""
import subprocess
subprocess.Popen([sys.executable, "-c", "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
    " start_new_session=True)", {daemon!r}])
while not (os.path.exists("daemon") and open("daemon").read()): time.sleep(0.05)
train('cuda', seconds=1.0)
"""
    )
    guarded = run(tmp_path, text)
    report(guarded)
    assert guarded.result.left_behind >= 1
    gone(int((tmp_path / "daemon").read_text()))


def test_fault_36_one_rank_dies(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
import torch.distributed as dist
dist.init_process_group("gloo")
train("cuda:0", width=512, seconds=1.0)
if dist.get_rank() == 1: os.kill(os.getpid(), 9)
dist.barrier()
"""
    )
    command = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script(tmp_path, text)]
    guarded = prove(command, baseline_s=0.5, cwd=tmp_path, log_path=tmp_path / "log.txt")
    unknown(guarded)
    assert guarded.result.status != 0 and "Signal 9" in (tmp_path / "log.txt").read_text()


# -- C: the supervisor and its sampler -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_fault_5_and_6_the_sampler_is_stopped_or_killed(tmp_path: Path, number: signal.Signals) -> None:
    import psutil

    def strike() -> None:
        said(tmp_path)
        below = psutil.Process().children(recursive=True)
        sampler = [one for one in below if any("ongpu.guard.sampler" in word for word in one.cmdline())]
        assert len(sampler) == 1
        sampler[0].send_signal(number)

    with meanwhile(strike):
        guarded = run(tmp_path, TRAIN.format(seconds=5), sampler_patience_s=2.0)
    unknown(guarded)
    assert guarded.result.status == 0 and guarded.result.sampler_error, "the training is not hurt, and it is said"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_fault_46_and_47_the_supervisor_is_killed_or_hung_up(tmp_path: Path, number: signal.Signals) -> None:
    """The whole command, as typed: what it ran ends with it, the GPU is free, the bundle is sealed or recovered."""
    argv = [PYTHON, "-m", "ongpu", "run", "--evidence", "ev", "--", PYTHON, script(tmp_path, TRAIN.format(seconds=60))]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as supervisor:
        pid = said(tmp_path)
        supervisor.send_signal(number)
        supervisor.communicate(timeout=60)
    gone(pid)
    if number is signal.SIGKILL:
        assert not (tmp_path / "ev" / "manifest.json").exists()
        subprocess.run(
            [PYTHON, "-m", "ongpu", "evidence", "recover", "ev"], cwd=tmp_path, env=environment(), check=True
        )
    else:
        assert supervisor.returncode in {130, 128 + signal.SIGHUP}
    manifest = json.loads((tmp_path / "ev" / "manifest.json").read_text())["predicate"]
    assert (manifest["ended"], manifest["verdict"]["outcome"]) == ("interrupted", "unknown")


def test_fault_46_nohup_survives_a_hangup(tmp_path: Path) -> None:
    argv = [
        "nohup",
        PYTHON,
        "-m",
        "ongpu",
        "run",
        "--evidence",
        "ev",
        "--",
        PYTHON,
        script(tmp_path, TRAIN.format(seconds=3)),
    ]
    with subprocess.Popen(
        argv,
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as supervisor:
        pid = said(tmp_path)
        supervisor.send_signal(signal.SIGHUP)
        os.kill(pid, signal.SIGHUP)
        _, err = supervisor.communicate(timeout=90)
    assert supervisor.returncode == 0, err.decode()
    assert b"Verdict: proven" in err, err.decode()


def test_fault_56_a_starved_machine(tmp_path: Path) -> None:
    """Four busy programs for each core: readings come late, an honest run is still proven."""
    many = 4 * (os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(many)]
    try:
        guarded = run(tmp_path, MODEL + "train('cuda', seconds=3.0)")
    finally:
        for one in busy:
            one.kill()
            one.wait()
    told = report(guarded)
    assert guarded.verdict.outcome in {"proven", "unknown"}, told
    assert guarded.result.status == 0, told


def test_honest_twin(tmp_path: Path) -> None:
    """What the faults are done to is proven without them."""
    guarded: Guarded = run(tmp_path, TRAIN.format(seconds=1.0))
    proven(guarded)
