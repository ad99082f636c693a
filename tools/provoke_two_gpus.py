"""Provoke the failures that take two GPUs, and save what the software prints.

Usage: ``python3 -m tools.provoke_two_gpus --out FILE.json [--budget-s 80] [--only NAME ...]``

Dead peers, ranks that fail at the start or in the middle, watchdogs, shared memory that is too small: each with a
launcher (which ends the others) and without one (so that the survivors speak). Every wait is ten seconds. Cases,
limits and the file written are those of ``provoke_gpu.py``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import time
from pathlib import Path

from tools.provoke_gpu import PYTHON, Case, provoke

# What every rank begins with; the case's own lines follow.
_HEAD = """
import os, sys, time, signal, torch, torch.distributed as dist
from datetime import timedelta
rank = int(os.environ['RANK']); local = int(os.environ['LOCAL_RANK'])
def begin(backend='nccl', **more):
    torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=timedelta(seconds=10), **more)
    print(f'[rank{rank}] Using device: cuda:{local}', flush=True)
def steps(count, start=0):
    x = torch.ones(1 << 20, device='cuda')
    for step in range(start, start + count):
        dist.all_reduce(x); x /= 2; torch.cuda.synchronize()
        if rank == 0:
            print(f'step {step} loss {3 - step / 10:.4f}', flush=True)
        time.sleep(0.05)
"""
_END = "dist.destroy_process_group()\nprint('done', rank)\n"
_QUICK = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "0", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "NCCL_DEBUG": "WARN"}
_DDP = """
model = torch.nn.parallel.DistributedDataParallel(Two().cuda(), device_ids=[local])
opt = torch.optim.SGD(model.parameters(), 0.01)
for step in range(4):
    opt.zero_grad(); loss = model(torch.randn(8, 8, device='cuda')).pow(2).mean(); loss.backward(); opt.step()
"""
_UNUSED = """
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.a = torch.nn.Linear(8, 8); self.b = torch.nn.Linear(8, 8)
    def forward(self, x):
        return self.a(x)
"""
_ASSERT = (
    "begin(); steps(4)\n"
    "if rank == 1: torch.nn.functional.embedding(torch.tensor([99], device='cuda'), torch.ones(10, 4, device='cuda'))\n"
)
_OOM = (
    "begin(); steps(4)\n"
    "if rank == 1: held = [torch.empty(8 << 30, dtype=torch.uint8, device='cuda') for _ in range(40)]\n"
)
_BODIES = {
    "healthy": ("two ranks that train and end", "begin(); steps(12)\n" + _END),
    "no_destroy": ("two ranks that end without destroy_process_group", "begin(); steps(6)\n"),
    "dead_peer": ("rank 1 exits in the middle", "begin(); steps(4)\nif rank == 1: os._exit(7)\nsteps(200, 4)\n"),
    "killed_peer": (
        "rank 1 is killed in the middle",
        "begin(); steps(4)\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nsteps(200, 4)\n",
    ),
    "crashed_peer": (
        "rank 1 crashes in the middle",
        "begin(); steps(4)\nif rank == 1: os.kill(os.getpid(), signal.SIGSEGV)\nsteps(200, 4)\n",
    ),
    "hung_peer": ("rank 1 sleeps in the middle", "begin(); steps(4)\nif rank == 1: time.sleep(30)\nsteps(20, 4)\n"),
    "rank_oom": ("rank 1 runs out of GPU memory in the middle", _OOM + "steps(200, 4)\n"),
    "rank_assert": ("a device assert in rank 1", _ASSERT + "steps(200, 4)\n"),
    "rank_raises": (
        "rank 1 raises a ValueError in the middle",
        "begin(); steps(4)\nif rank == 1: raise ValueError('bad sample')\nsteps(200, 4)\n",
    ),
    "fails_at_init": (
        "rank 1 raises before init_process_group",
        "if rank == 1: raise FileNotFoundError('config.yaml')\nbegin(); steps(4)\n",
    ),
    "no_gpu_in_one": (
        "rank 1 sees no GPU",
        "if rank == 1: os.environ['CUDA_VISIBLE_DEVICES'] = ''\nbegin(); steps(4)\n",
    ),
    "wrong_device": ("rank 1 asks for GPU 5", "local = 5 if rank == 1 else local\nbegin(); steps(4)\n"),
    "same_device": ("both ranks on GPU 0", "local = 0\nbegin(); steps(4)\n"),
    "unused_parameters": ("DDP with parameters that get no gradient", "begin()\n" + _UNUSED + _DDP),
    "other_model": (
        "DDP with another model in rank 1",
        "begin()\nclass Two(torch.nn.Linear):\n    def __init__(self): super().__init__(8, 8 + rank)\n" + _DDP,
    ),
}
_DETAIL = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
_MORE = (
    ("blocking_wait", "hung_peer", {"TORCH_NCCL_BLOCKING_WAIT": "1"}),
    ("no_interface", "healthy", {"NCCL_SOCKET_IFNAME": "nothere0"}),
    ("info", "healthy", {"NCCL_DEBUG": "INFO"}),
    ("detail_unused", "unused_parameters", _DETAIL),
)
_TORCHRUN = f"{PYTHON} -m torch.distributed.run --nproc_per_node=2 --master_port="
# Bare ranks: nobody ends the other one, so that it says itself what it sees.
_BARE = (
    "export MASTER_ADDR=127.0.0.1 WORLD_SIZE=2 MASTER_PORT={port}\n"
    "RANK=1 LOCAL_RANK=1 {python} case.py & RANK=0 LOCAL_RANK=0 {python} case.py; echo rank 0 ended with $?; wait\n"
)
_SMALL_SHM = "unshare -m bash -c 'mount -t tmpfs -o size=256k none /dev/shm && {run}'"


def cases() -> list[Case]:
    """Every provocation, with a launcher and without."""
    found: list[Case] = []

    def add(name: str, how: str, body: str, shell: str, env: dict[str, str]) -> None:
        alone = "oom" in name
        text = shell.replace("{port}", str(29700 + len(found))).replace("{python}", PYTHON)
        write = "cat > case.py <<'END'\n" + _HEAD + body + "END\n"
        found.append(Case(name=name, how=how, shell=write + text, env={**_QUICK, **env}, limit_s=34, alone=alone))

    run = _TORCHRUN + "{port} case.py"
    for name, (how, body) in _BODIES.items():
        add(name, f"{how}, under torchrun", body, run, {})
    for name in ("dead_peer", "killed_peer", "hung_peer", "rank_oom", "rank_assert", "fails_at_init", "wrong_device"):
        how, body = _BODIES[name]
        add(f"{name}_bare", f"{how}, without a launcher", body, _BARE, {})
    for name, base, env in _MORE:
        how, body = _BODIES[base]
        add(name, f"{how}, with {env}", body, run if base != "hung_peer" else _BARE, env)
    small = _SMALL_SHM.replace("{run}", run)
    add("small_shm", "/dev/shm of 256 KiB", _BODIES["healthy"][1], small, {"NCCL_P2P_DISABLE": "1"})
    add("one_gpu_too_few", "four ranks on two GPUs", _BODIES["healthy"][1], run.replace("=2 ", "=4 "), {})
    taken = f"{run} & sleep 4; {run}; wait"
    add("port_taken", "a second torchrun on the same port", "begin(); steps(100)\n" + _END, taken, {})
    return found


def main() -> int:
    """Provoke all cases, six at a time; those that take the whole of a GPU at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=80)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    wanted = [case for case in cases() if not options.only or case.name in options.only]
    ask = functools.partial(provoke, deadline=time.monotonic() + options.budget_s)
    results: dict[str, dict[str, object]] = {}
    for alone in (False, True):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            futures = {case.name: pool.submit(ask, case) for case in wanted if case.alone is alone}
            results |= {name: future.result() for name, future in futures.items()}
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    for name, result in results.items():
        print(f"{name:20} rc={result['returncode']} {result.get('seconds', '-')} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
