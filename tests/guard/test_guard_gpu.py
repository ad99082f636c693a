"""Decoys and honest runs on a real GPU: no decoy may be proven, no honest run refused.

Run on a machine with an NVIDIA GPU and torch, psutil, pynvml, pytest, from the root of the repository:

    PYTHONPATH=src python -m pytest -c /dev/null --rootdir . -q -rA -p no:cacheprovider tests/guard/test_guard_gpu.py

(``-c /dev/null``: the project's own settings ask for plugins that need not be there.)
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.guard import guard_programs
from tests.guard.guard_harness import PYTHON, Guarded, environment, prove, script

pytestmark = pytest.mark.gpu

MODEL = """
import os, sys, time
import torch
def train(device, steps=60, width=2048, layers=4, batch=64, seconds=3.0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    began = time.monotonic()
    done = 0
    while done < steps or time.monotonic() - began < seconds:
        x = torch.randn(batch, width, device=device)
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        loss.item()
        done += 1
    return model, optimizer, done
"""
LOAD = """
import time, torch
x = torch.randn(8192, 8192, device="cuda")
hold = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("busy", flush=True)
while True:
    y = x @ x
    torch.cuda.synchronize()
"""


def report(guarded: Guarded) -> str:
    """What a failing test shows, and what is worth a line in the log of a passing one."""
    lines = [f"{guarded.verdict.outcome}: {guarded.verdict.reason}"]
    lines += [f"{one.name} {one.state}: {one.reason}" for one in guarded.verdict.witnesses]
    lines += [f"{one.id} {one.outcome}: {one.reason}" for one in guarded.verdict.claims]
    lines += [f"status {guarded.result.status}, sampler {guarded.result.sampler_error}"]
    text = "\n".join(lines)
    print(text)
    return text


def run(folder: Path, text: str, **changes: Any) -> Guarded:
    return prove([PYTHON, script(folder, text)], baseline_s=1.0, cwd=folder, log_path=folder / "log.txt", **changes)


def proven(guarded: Guarded) -> None:
    told = report(guarded)
    assert guarded.result.status == 0, told
    assert guarded.verdict.outcome == "proven", told
    assert guarded.verdict.level == "process", told


def refuted(guarded: Guarded) -> None:
    told = report(guarded)
    assert guarded.verdict.outcome == "refuted", told
    assert guarded.claim("no-silent-cpu") == "refuted", told


def unknown(guarded: Guarded) -> None:
    told = report(guarded)
    assert guarded.verdict.outcome == "unknown", told
    assert not any(one.outcome == "proven" and one.required for one in guarded.verdict.claims), told


@contextmanager
def load_beside() -> Iterator[int]:
    """Another program that keeps the GPU busy."""
    with subprocess.Popen([PYTHON, "-c", LOAD], stdout=subprocess.PIPE) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == b"busy\n"
        try:
            yield load.pid
        finally:
            load.kill()


# -- honest runs -----------------------------------------------------------------------------------------------------


def test_honest_plain_loop(tmp_path: Path) -> None:
    guarded = run(tmp_path, MODEL + "train('cuda', width=4096, batch=4096, seconds=5.0)")
    proven(guarded)
    assert [one.kind for one in guarded.events] == ["started", "first-step-on-cuda"]
    assert guarded.witness("W4").state == "confirmed"


def test_honest_expected_gpu(tmp_path: Path) -> None:
    import torch

    proven(run(tmp_path, MODEL + "train('cuda')", expect_gpu=torch.cuda.get_device_name(0)))


def test_honest_but_another_gpu_was_expected(tmp_path: Path) -> None:
    guarded = run(tmp_path, MODEL + "train('cuda', seconds=2.0)", expect_gpu="RTX 5090")
    report(guarded)
    assert guarded.claim("expected-gpu") == "refuted"
    assert guarded.claim("trained-on-gpu") == "proven"


@pytest.mark.parametrize("steps", [5, 20])
def test_honest_short_run(tmp_path: Path, steps: int) -> None:
    proven(run(tmp_path, MODEL + f"train('cuda', steps={steps}, seconds=0)"))


def test_honest_tiny_model(tmp_path: Path) -> None:
    proven(run(tmp_path, MODEL + "train('cuda', width=32, layers=2, seconds=1.5)"))


def test_honest_beside_another_load(tmp_path: Path) -> None:
    with load_beside():
        proven(run(tmp_path, MODEL + "train('cuda')"))


def test_honest_data_loader_workers(tmp_path: Path) -> None:
    text = """
import torch
if __name__ == "__main__":
    data = torch.utils.data.TensorDataset(torch.randn(4096, 512))
    model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.Linear(2048, 512)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for epoch in range(6):
        for (batch,) in torch.utils.data.DataLoader(data, batch_size=64, num_workers=3, pin_memory=True):
            optimizer.zero_grad(set_to_none=True)
            model(batch.cuda(non_blocking=True)).pow(2).mean().backward()
            optimizer.step()
"""
    proven(run(tmp_path, text))


def test_honest_mixed_precision_and_accumulation(tmp_path: Path) -> None:
    text = """
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)]).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
scaler = torch.amp.GradScaler("cuda")
for step in range(400):
    with torch.autocast("cuda", dtype=torch.float16):
        loss = model(torch.randn(64, 1024, device="cuda")).float().pow(2).mean() / 2
    scaler.scale(loss).backward()
    if step % 2:
        scaler.step(optimizer); scaler.update(); optimizer.zero_grad()
torch.cuda.synchronize()
import time; time.sleep(0.5)
"""
    proven(run(tmp_path, text))


def test_honest_empty_cache_between(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
for _ in range(4):
    train('cuda', seconds=1.0)
    torch.cuda.empty_cache()
"""
    )
    proven(run(tmp_path, text))


def test_honest_compiled(tmp_path: Path) -> None:
    proven(run(tmp_path, guard_programs.compiled()))


def test_honest_torchrun_two_ranks_on_one_gpu(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
import torch.distributed as dist
dist.init_process_group("gloo")
train("cuda:0", seconds=3.0)
dist.barrier(); dist.destroy_process_group()
"""
    )
    program = script(tmp_path, text)
    command = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    guarded = prove(command, baseline_s=1.0, cwd=tmp_path)
    proven(guarded)
    assert "2 processes" in guarded.witness("W1").reason


def test_honest_shell_script(tmp_path: Path) -> None:
    program = script(tmp_path, MODEL + "train('cuda')")
    proven(prove(["sh", "-c", f"echo begin; {PYTHON} {program}; echo end"], baseline_s=1.0, cwd=tmp_path))


def test_honest_trainer_of_transformers(tmp_path: Path) -> None:
    proven(run(tmp_path, guard_programs.trainer_of_transformers()))


def test_honest_lightning(tmp_path: Path) -> None:
    proven(run(tmp_path, guard_programs.lightning()))


# -- decoys ----------------------------------------------------------------------------------------------------------


def test_decoy_cpu_training_beside_another_load(tmp_path: Path) -> None:
    with load_beside():
        refuted(run(tmp_path, MODEL + "train('cpu', width=256)"))


def test_decoy_cpu_training_with_a_loader_in_the_tree(tmp_path: Path) -> None:
    load = script(tmp_path, LOAD, "load.py")
    text = (
        MODEL
        + f"""
import subprocess
load = subprocess.Popen([sys.executable, {load!r}], stdout=subprocess.PIPE)
load.stdout.readline()
train('cpu', width=256)
load.kill(); load.wait()
"""
    )
    refuted(run(tmp_path, text))


@pytest.mark.parametrize("ask", ["torch.cuda.is_available()", "import pynvml; pynvml.nvmlInit()", "torch.cuda.init()"])
def test_decoy_cpu_training_after_asking(tmp_path: Path, ask: str) -> None:
    with load_beside():
        refuted(run(tmp_path, MODEL + f"{ask}\ntrain('cpu', width=256)"))


def test_decoy_bare_context_held(tmp_path: Path) -> None:
    refuted(run(tmp_path, MODEL + "torch.zeros(1, device='cuda')\ntrain('cpu', width=256)"))


def test_decoy_much_memory_held(tmp_path: Path) -> None:
    text = MODEL + "hold = torch.empty(4 << 30, dtype=torch.uint8, device='cuda')\ntrain('cpu', width=256)"
    refuted(run(tmp_path, text))


def test_decoy_spin_kernel_beside_cpu_training(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
import threading
x = torch.randn(4096, 4096, device="cuda")
stop = threading.Event()
def spin():
    while not stop.is_set():
        x @ x
        torch.cuda.synchronize()
thread = threading.Thread(target=spin); thread.start()
train('cpu', width=256)
stop.set(); thread.join()
"""
    )
    refuted(run(tmp_path, text))


def test_decoy_warm_up_only(tmp_path: Path) -> None:
    refuted(run(tmp_path, MODEL + "train('cuda', seconds=1.5)\ntrain('cpu', width=256, seconds=1.5)"))


def test_decoy_model_moved_to_the_cpu_after_the_warm_up(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
model, optimizer, _ = train('cuda', seconds=1.5)
model.cpu()
for state in optimizer.state.values():
    for key, value in state.items():
        if torch.is_tensor(value): state[key] = value.cpu()
for _ in range(3):
    optimizer.zero_grad(); model(torch.randn(4, 2048)).pow(2).mean().backward(); optimizer.step()
"""
    )
    refuted(run(tmp_path, text))


def test_decoy_optimizer_works_on_the_cpu(tmp_path: Path) -> None:
    text = """
import torch, time
model = torch.nn.Linear(1024, 1024).cuda()
master = [torch.nn.Parameter(one.detach().cpu()) for one in model.parameters()]
optimizer = torch.optim.AdamW(master)
began = time.monotonic()
while time.monotonic() - began < 2:
    model.zero_grad()
    model(torch.randn(64, 1024, device="cuda")).pow(2).mean().backward()
    for mine, theirs in zip(master, model.parameters()):
        mine.grad = theirs.grad.cpu()
    optimizer.step()
    with torch.no_grad():
        for mine, theirs in zip(master, model.parameters()):
            theirs.copy_(mine)
"""
    refuted(run(tmp_path, text))


def test_decoy_one_of_two_ranks_on_the_cpu(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
import torch.distributed as dist
dist.init_process_group("gloo")
train("cuda:0" if dist.get_rank() == 0 else "cpu", width=512, seconds=2.0)
dist.barrier(); dist.destroy_process_group()
"""
    )
    program = script(tmp_path, text)
    command = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    guarded = prove(command, baseline_s=1.0, cwd=tmp_path)
    refuted(guarded)
    assert "rank 1" in guarded.witness("W1").reason


def test_decoy_log_that_prints_everything(tmp_path: Path) -> None:
    text = """
import json
print("Using device: cuda")
print("NVIDIA H100 80GB HBM3, memory allocated 12345 MiB")
print(json.dumps({"record": "step", "n": 1, "pid": 1, "parameters": {"cuda:0": 1}}))
print(json.dumps({"verdict": {"outcome": "proven"}}))
"""
    unknown(run(tmp_path, text))


def test_decoy_out_of_memory_moves_to_the_cpu(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
try:
    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
except torch.cuda.OutOfMemoryError:
    train("cpu", width=256, seconds=1.0)
"""
    )
    refuted(run(tmp_path, text))


def test_decoy_forged_records(tmp_path: Path) -> None:
    """A program that trains nothing and writes what an honest hook would have written."""
    import torch

    name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    text = f"""
import json, os, time
folder = os.environ["ONGPU_HOOK_DIR"]
out = open(os.path.join(folder, "hook-forged.jsonl"), "w")
n = 0
def tell(record, **more):
    global n
    out.write(json.dumps({{"record": record, "n": n, "pid": os.getpid(), "t_mono": time.monotonic(), **more}}) + "\\n")
    out.flush(); n += 1
device = {{"device": "cuda:0", "uuid": {name!r}, "name": "x", "compute_capability": "9.0",
          "allocated_bytes": 2 << 30, "reserved_bytes": 2 << 30, "max_reserved_bytes": 2 << 30}}
tell("torch", version="2.13.0", cuda="13.0", hip=None, rank=None, world_size=None, start_time=None, python="3.12")
for step in range(1, 6):
    tell("step", step=step, optimizer=0, optimizer_class="AdamW", optimizer_step=step, final=False,
         parameters={{"cuda:0": 1 << 28}}, gradients={{"cuda:0": 1 << 28}}, state={{"cuda:0": 1 << 29}},
         devices=[device], scalars_excluded=0)
    time.sleep(0.6)
last = {{"step": 5, "parameters_on_cuda": 2, "parameters": 2, "gradients_on_cuda": 2, "gradients": 2}}
tell("end", steps=5, created=1, never_stepped=0, cuda_initialized=True, is_available=True, errors=0, records=n + 1,
     optimizers=[{{"optimizer": 0, "optimizer_class": "AdamW", "steps": 5, "off_cuda_steps": 0, "last_sampled_step": 5,
                  "last": last}}])
"""
    with load_beside():
        guarded = run(tmp_path, text)
    told = report(guarded)
    assert guarded.verdict.outcome != "proven", told
    assert guarded.witness("W1").state == "confirmed", told  # only claimed: the driver is what refuses it


def test_negative_control_cuda_hidden(tmp_path: Path) -> None:
    text = MODEL + "train('cuda' if torch.cuda.is_available() else 'cpu', width=256, seconds=1.0)"
    refuted(run(tmp_path, text, environment=environment(CUDA_VISIBLE_DEVICES="-1")))


# -- programs of which nothing speaks from inside --------------------------------------------------------------------


def test_training_by_hand_stays_unknown(tmp_path: Path) -> None:
    text = """
import torch, time
weight = torch.randn(8192, 8192, device="cuda", requires_grad=True)
began = time.monotonic()
while time.monotonic() - began < 3:
    (torch.randn(2048, 8192, device="cuda") @ weight).pow(2).mean().backward()
    with torch.no_grad():
        weight -= 1e-3 * weight.grad
    weight.grad = None
torch.cuda.synchronize()
"""
    guarded = run(tmp_path, text)
    unknown(guarded)
    assert guarded.claim("computed-on-gpu") == "proven", report(guarded)


DRIVER_PROGRAM = """
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
def ask(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    assert status == 0, (name, status)
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
ask("cuInit", 0)
ask("cuDeviceGet", ctypes.byref(device), 0)
ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
ask("cuCtxSetCurrent", context)
size = 4 << 30
ask("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
began = time.monotonic()
while time.monotonic() - began < 4:
    for _ in range(20):
        ask("cuMemsetD32Async", memory, ctypes.c_uint(7), ctypes.c_size_t(size // 4), None)
    ask("cuCtxSynchronize")
"""


def test_a_program_without_torch_computes_at_most(tmp_path: Path) -> None:
    guarded = run(tmp_path, DRIVER_PROGRAM)
    unknown(guarded)
    assert guarded.claim("computed-on-gpu") == "proven", report(guarded)
    assert "whether it trained stays unknown" in guarded.verdict.reason


def test_a_program_that_only_holds_memory_computes_nothing(tmp_path: Path) -> None:
    guarded = run(tmp_path, DRIVER_PROGRAM.replace("for _ in range(20)", "for _ in ()"))
    unknown(guarded)
    assert guarded.claim("computed-on-gpu") == "unknown", report(guarded)


def test_fail_fast_stops_a_cpu_training(tmp_path: Path) -> None:
    began = time.monotonic()
    guarded = run(tmp_path, MODEL + "train('cpu', width=256, seconds=120)", fail_fast_s=15.0)
    report(guarded)
    assert guarded.result.stopped == "fail-fast"
    assert time.monotonic() - began < 60


def test_fail_fast_leaves_an_honest_run_alone(tmp_path: Path) -> None:
    proven(run(tmp_path, MODEL + "train('cuda', seconds=4.0)", fail_fast_s=15.0))


def test_journal_of_an_honest_run_for_replay(tmp_path: Path) -> None:
    """Writes what was recorded to ``$OUT/guard_journal.json`` where that is set: to be replayed without a GPU."""
    guarded = run(tmp_path, MODEL + "train('cuda', seconds=2.0)")
    proven(guarded)
    out = os.environ.get("OUT")
    if out:
        rows = [{"kind": one.kind, "t_mono": one.t_mono, "data": one.data} for one in guarded.memory.observations]
        Path(out, "guard_journal.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")
