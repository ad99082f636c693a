"""Provoke GPU failures on a machine that has one, and save what the software prints.

Usage: ``python3 tools/provoke_gpu.py --out FILE.json [--budget-s 230] [--only NAME ...]``

Every case is a child of its own with a time limit; nothing changes the settings of the card. Mounts are made in a
mount namespace of the child's own. A case that cannot be provoked here is recorded with the reason, never left out.
Needs torch; transformers, accelerate, lightning and cupy are used where they are installed, nvcc where it is there.
"""

# ruff: noqa: E501 - shell and Python one-liners, each kept on the line of its case

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

PYTHON = sys.executable
LARGEST_OUTPUT_BYTES = 40_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One provocation: ``code`` is Python, or ``shell`` a bash script; ``alone`` where it takes the whole GPU."""

    name: str
    how: str
    code: str = ""
    shell: str = ""
    env: dict[str, str] = field(default_factory=dict)
    limit_s: int = 60
    alone: bool = False


ASK = "import torch\nx = torch.ones(4, device='cuda')\nprint(x.sum())\n"
LOOK = """
import torch
print('torch', torch.__version__, 'cuda', torch.version.cuda)
print('torch.cuda.is_available():', torch.cuda.is_available())
print('device_count', torch.cuda.device_count())
torch.zeros(1, device='cuda')
"""
TRAINER = """
import torch, transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
data = [{'input_ids': torch.arange(16), 'labels': torch.arange(16)} for _ in range(64)]
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=32))
args = TrainingArguments(output_dir='out', max_steps=12, per_device_train_batch_size=4, logging_steps=2,
                         report_to=[], save_strategy='no', {extra})
trainer = Trainer(model=model, args=args, train_dataset=data)
trainer.train()
"""
LIGHTNING = """
import torch, lightning as L
class M(L.LightningModule):
    def __init__(self):
        super().__init__(); self.l = torch.nn.Linear(8, 1)
    def training_step(self, batch, i):
        loss = self.l(batch[0]).pow(2).mean(); self.log('loss', loss, prog_bar=True); return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 8)), batch_size=8)
L.Trainer(max_epochs=2, {extra} logger=False, enable_checkpointing=False).fit(M(), loader)
"""
ACCELERATE = """
from accelerate import Accelerator
import torch
accelerator = Accelerator({extra})
print('Using device:', accelerator.device)
model = torch.nn.Linear(8, 1); opt = torch.optim.SGD(model.parameters(), 0.1)
loader = torch.utils.data.DataLoader(torch.randn(64, 8), batch_size=8)
model, opt, loader = accelerator.prepare(model, opt, loader)
for step, x in enumerate(loader):
    loss = model(x).pow(2).mean(); accelerator.backward(loss); opt.step(); opt.zero_grad()
    print(f'step {step} loss {loss.item():.4f}')
print('training complete')
"""
EXTENSION = """
import torch
from torch.utils.cpp_extension import load_inline
cuda = '''
#include <torch/extension.h>
#include <c10/cuda/CUDAException.h>
__global__ void twice(float* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= 2; }
torch::Tensor scale(torch::Tensor x) {
  twice<<<(x.numel() + 255) / 256, 256>>>(x.data_ptr<float>(), x.numel());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return x;
}
'''
ext = load_inline('scale_ext', 'torch::Tensor scale(torch::Tensor x);', cuda, functions=['scale'], verbose=True)
print(ext.scale(torch.ones(8, device='cuda')))
"""
COMPILED = """
import torch
f = torch.compile(lambda x: torch.sin(x) * 2 + x.sum())
print(f(torch.randn(1024, device='cuda')))
"""
PTX_NEWER = r"""
cat > p.cu <<'END'
#include <cstdio>
__global__ void k() {}
int main() {
  k<<<1, 1>>>();
  cudaError_t e = cudaDeviceSynchronize();
  if (e == cudaSuccess) e = cudaGetLastError();
  printf("CUDA error %d: %s: %s\n", (int)e, cudaGetErrorName(e), cudaGetErrorString(e));
  return e != cudaSuccess;
}
END
nvcc --no-compress -gencode arch=compute_90,code=compute_90 -o p p.cu || nvcc -gencode arch=compute_90,code=compute_90 -o p p.cu
python3 - <<'END'
import re
data = open('p', 'rb').read()
new, n = re.subn(rb'\.version \d\.\d', b'.version 9.9', data)
open('p', 'wb').write(new)
print('PTX versions rewritten to 9.9:', n)
END
./p
"""
OTHER_ARCH = r"""
cat > p.cu <<'END'
#include <cstdio>
__global__ void k() {}
int main() {
  k<<<1, 1>>>();
  cudaError_t e = cudaGetLastError();
  printf("CUDA error %d: %s: %s\n", (int)e, cudaGetErrorName(e), cudaGetErrorString(e));
  return e != cudaSuccess;
}
END
nvcc -gencode arch=compute_80,code=sm_80 -o q p.cu && ./q
nvcc -gencode arch=compute_100,code=compute_100 -o r p.cu && ./r
"""
BOUND = r"""
unshare -m bash -c '
for f in {files}; do [ -e "$f" ] && mount --bind /dev/null "$f" && echo "covered $f"; done
nvidia-smi
{python} look.py
'
"""
SHARED_GPU = """
import os, torch, torch.distributed as dist
dist.init_process_group('nccl')
torch.cuda.set_device(0)
x = torch.ones(4, device='cuda'); dist.all_reduce(x); print(x)
"""
RANK_OOM = """
import os, torch, torch.distributed as dist
from datetime import timedelta
dist.init_process_group('gloo', timeout=timedelta(seconds=20))
if dist.get_rank() == 1:
    held = [torch.empty(1 << 34, dtype=torch.uint8, device='cuda') for _ in range(40)]
x = torch.ones(4); dist.all_reduce(x); print(x)
"""
DEAD_PEER = """
import os, time, torch, torch.distributed as dist
from datetime import timedelta
dist.init_process_group('nccl', timeout=timedelta(seconds=20))
rank = dist.get_rank(); torch.cuda.set_device(rank)
x = torch.ones(4, device='cuda'); dist.all_reduce(x); torch.cuda.synchronize()
if rank == 1:
    os._exit(7)
for _ in range(50):
    dist.all_reduce(x); torch.cuda.synchronize()
"""
WARN_ARCH = """
import torch, torch.cuda
real = torch.cuda.get_arch_list
torch.cuda.get_arch_list = lambda: ['sm_70', 'sm_75', 'sm_80', 'sm_86']  # stand-in: torch's own check then speaks
print(torch.ones(2, device='cuda'))
"""
LIB_DIRS = "/usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib /usr/local/nvidia/lib64"


def cases() -> list[Case]:
    """Every provocation."""
    found = [
        Case(name="baseline", how="torch and a GPU, nothing wrong", code=LOOK),
        Case(name="smi", how="nvidia-smi as it is", shell="nvidia-smi; nvidia-smi -L; cat /proc/driver/nvidia/version"),
        Case(name="collect_env", how="python -m torch.utils.collect_env", shell=f"{PYTHON} -m torch.utils.collect_env"),
    ]
    for label, value in (
        ("empty", ""),
        ("minus", "-1"),
        ("uuid", "GPU-00000000-dead-beef-0000-000000000000"),
        ("out_of_range", "7"),
    ):
        env = {"CUDA_VISIBLE_DEVICES": value}
        found.append(Case(name=f"hidden_{label}", how=f"CUDA_VISIBLE_DEVICES={value!r}", code=LOOK, env=env))
    found += _drivers() + _programs() + _memory() + _builds() + _frameworks() + _several()
    return found


def _drivers() -> list[Case]:
    libs = " ".join(f"{folder}/libcuda.so*" for folder in LIB_DIRS.split())
    ml = " ".join(f"{folder}/libnvidia-ml.so*" for folder in LIB_DIRS.split())
    jit = " ".join(f"{folder}/libnvidia-ptxjitcompiler.so*" for folder in LIB_DIRS.split())
    bound = {
        "libcuda_covered": ("libcuda covered by /dev/null in a mount namespace", libs),
        "nvml_covered": ("libnvidia-ml covered by /dev/null in a mount namespace", ml),
        "uvm_covered": ("/dev/nvidia-uvm covered by /dev/null", "/dev/nvidia-uvm"),
        "ctl_covered": ("/dev/nvidiactl covered by /dev/null", "/dev/nvidiactl"),
        "device_covered": ("/dev/nvidia0 covered by /dev/null", "/dev/nvidia0"),
        "jit_covered": ("the PTX compiler library covered by /dev/null", jit),
    }
    out = [
        Case(name=name, how=how, shell=BOUND.format(files=files, python=PYTHON)) for name, (how, files) in bound.items()
    ]
    stub = 'd=$(mktemp -d); cp $(find /usr/local/cuda* -path "*stubs/libcuda.so" | head -1) $d/libcuda.so.1; '
    out += [
        Case(
            name="stub_libcuda",
            how="the toolkit's stub libcuda first on the path",
            shell=stub + f"LD_LIBRARY_PATH=$d {PYTHON} look.py",
        ),
        Case(
            name="broken_libcuda",
            how="an empty libcuda.so.1 first on the path",
            shell=f"d=$(mktemp -d); : > $d/libcuda.so.1; LD_LIBRARY_PATH=$d {PYTHON} look.py",
        ),
        Case(name="address_space", how="ulimit -v 16 GiB", shell=f"ulimit -v 16777216; {PYTHON} look.py"),
        Case(name="address_space_small", how="ulimit -v 6 GiB", shell=f"ulimit -v 6291456; {PYTHON} look.py"),
        Case(name="few_files", how="ulimit -n 24", shell=f"ulimit -n 24; {PYTHON} look.py"),
        Case(
            name="other_user", how="as nobody with the device files unreadable in a mount namespace", shell=_AS_NOBODY
        ),
    ]
    return out


_AS_NOBODY = f"""unshare -m bash -c 'mount -t tmpfs none /tmp; chmod 777 /tmp; cd /tmp
for f in /dev/nvidia0 /dev/nvidiactl /dev/nvidia-uvm; do mknod x-$(basename $f) c 195 255; chmod 600 x-$(basename $f)
mount --bind x-$(basename $f) $f; done
setpriv --reuid 65534 --regid 65534 --clear-groups nvidia-smi
setpriv --reuid 65534 --regid 65534 --clear-groups {PYTHON} -c "import torch; torch.zeros(1, device=\\"cuda\\")"'
"""


def _programs() -> list[Case]:
    embed = "torch.nn.Embedding(10, 4).cuda()(torch.tensor([1, 99]).cuda())"
    kernel = "import cupy\nk = cupy.RawKernel('extern \"C\" __global__ void f(float* p) {BODY}', 'f')\n"
    return [
        Case(
            name="assert_embedding",
            how="an index out of range in an embedding",
            code=f"import torch\ny = {embed}\ntorch.cuda.synchronize()\nprint(y)\n",
        ),
        Case(
            name="assert_labels",
            how="a label out of range in cross entropy",
            code="import torch\nl = torch.nn.functional.cross_entropy(torch.randn(4, 3).cuda(), torch.tensor([0, 1, 2, 7]).cuda())\nprint(l.item())\n",
        ),
        Case(
            name="illegal_access",
            how="a kernel that writes to an address of nobody",
            code=kernel.replace("BODY", "p[(long)1 << 44] = 1;")
            + "k((1,), (1,), (cupy.zeros(4, 'f'),))\ncupy.cuda.runtime.deviceSynchronize()\n",
        ),
        Case(
            name="illegal_access_torch",
            how="the same, met by torch",
            code="import torch\nx = torch.ones(4, device='cuda')\n"
            + kernel.replace("BODY", "p[(long)1 << 44] = 1;")
            + "k((1,), (1,), (cupy.zeros(4, 'f'),))\nprint(x.sum())\n",
        ),
        Case(
            name="misaligned",
            how="a kernel that reads a float at an odd address",
            code=kernel.replace("BODY", "*(float*)((char*)p + 1) = 1;")
            + "k((1,), (1,), (cupy.zeros(4, 'f'),))\ncupy.cuda.runtime.deviceSynchronize()\n",
        ),
        Case(
            name="trap",
            how="a kernel that traps",
            code=kernel.replace("BODY", 'asm("trap;");')
            + "k((1,), (1,), (cupy.zeros(4, 'f'),))\ncupy.cuda.runtime.deviceSynchronize()\n",
        ),
        Case(
            name="bad_launch",
            how="4096 threads in a block",
            code=kernel.replace("BODY", "p[0] = 1;") + "k((1,), (4096,), (cupy.zeros(4, 'f'),))\n",
        ),
        Case(
            name="bad_ordinal",
            how="cuda:7 asked where there is one",
            code="import torch\ntorch.ones(1, device='cuda:7')\n",
        ),
        Case(
            name="set_device_bad",
            how="set_device(3) where there is one",
            code="import torch\ntorch.cuda.set_device(3)\n",
        ),
        Case(
            name="two_devices",
            how="a CPU tensor and a CUDA tensor added",
            code="import torch\nprint(torch.nn.Linear(4, 4).cuda()(torch.ones(2, 4)))\n",
        ),
        Case(
            name="fork",
            how="CUDA used before a fork",
            code="import torch, os\ntorch.zeros(1).cuda()\npid = os.fork()\nif pid == 0:\n    torch.zeros(1).cuda()\nos.wait()\n",
        ),
        Case(name="to_numpy", how="numpy() of a CUDA tensor", code="import torch\ntorch.ones(2).cuda().numpy()\n"),
        Case(
            name="dataloader_fork",
            how="CUDA in a forked loader worker",
            code="import torch\nclass D(torch.utils.data.Dataset):\n    def __len__(s): return 4\n    def __getitem__(s, i): return torch.ones(1).cuda()\ntorch.zeros(1).cuda()\nfor x in torch.utils.data.DataLoader(D(), num_workers=1): pass\n",
        ),
    ]


def _memory() -> list[Case]:
    hold = "import torch\nheld = []\nwhile True:\n    held.append(torch.empty(1 << 32, dtype=torch.uint8, device='cuda'))\n"
    return [
        Case(name="oom", how="allocating 4 GiB until it fails", code=hold, alone=True),
        Case(
            name="oom_fraction",
            how="set_per_process_memory_fraction(0.01) and 2 GiB",
            code="import torch\ntorch.cuda.set_per_process_memory_fraction(0.01)\ntorch.empty(1 << 31, dtype=torch.uint8, device='cuda')\n",
        ),
        Case(
            name="oom_huge",
            how="one absurd allocation",
            code="import torch\ntorch.empty(1 << 45, dtype=torch.uint8, device='cuda')\n",
        ),
        Case(
            name="oom_recovered",
            how="OOM caught, batch halved, training goes on",
            code="import torch\nprint('Using device: cuda')\nbatch = 1 << 38\nwhile True:\n    try:\n        x = torch.empty(batch, dtype=torch.uint8, device='cuda'); break\n    except torch.OutOfMemoryError as e:\n        print('WARNING', e, 'reducing batch size'); batch //= 2\ndel x\nw = torch.zeros(8, device='cuda', requires_grad=True)\nfor s in range(10):\n    l = (w - 1).pow(2).sum(); l.backward(); w.data -= 0.1 * w.grad; w.grad = None; print(f'step {s} loss {l.item():.4f}')\nprint('training complete')\n",
            alone=True,
        ),
        Case(
            name="oom_second",
            how="a second process while a first one holds nearly all",
            shell=f"{PYTHON} hog.py & p=$!; sleep 12; {PYTHON} look.py; {PYTHON} -c 'import torch; torch.empty(1 << 33, device=\"cuda\")'; kill $p",
            alone=True,
            limit_s=90,
        ),
        Case(
            name="oom_context",
            how="a process whose context itself does not fit",
            shell=f"{PYTHON} hogall.py & p=$!; sleep 14; {PYTHON} look.py; nvidia-smi; kill $p",
            alone=True,
            limit_s=90,
        ),
        Case(
            name="host_oom",
            how="a CPU allocation that cannot be",
            code="import torch\ntorch.empty(1 << 50, dtype=torch.uint8)\n",
        ),
    ]


def _builds() -> list[Case]:
    find = f"p=$({PYTHON} -c 'import triton, os; print(os.path.join(os.path.dirname(triton.__file__), \"backends/nvidia/bin/ptxas\"))'); "
    script = 'cat > w/ptxas <<END\n#!/bin/bash\nargs=("\\${@/sm_90a/sm_999}"); exec $p "\\${args[@]}"\nEND\nchmod +x w/ptxas; '
    return [
        Case(
            name="extension_other_arch",
            how="an extension built for 7.5 only, run here",
            code=EXTENSION,
            env={"TORCH_CUDA_ARCH_LIST": "7.5"},
            limit_s=150,
        ),
        Case(
            name="extension_gone_arch",
            how="TORCH_CUDA_ARCH_LIST=3.5",
            code=EXTENSION,
            env={"TORCH_CUDA_ARCH_LIST": "3.5"},
            limit_s=120,
        ),
        Case(
            name="extension_unknown_arch",
            how="TORCH_CUDA_ARCH_LIST=42.0",
            code=EXTENSION,
            env={"TORCH_CUDA_ARCH_LIST": "42.0"},
        ),
        Case(
            name="extension_no_home",
            how="no nvcc: CUDA_HOME names a folder without one",
            code=EXTENSION,
            env={"CUDA_HOME": "/nonexistent"},
        ),
        Case(name="ptx_newer", how="PTX whose version was raised above the driver's", shell=PTX_NEWER, limit_s=90),
        Case(
            name="other_arch",
            how="a program with sm_80 code only, and one with compute_100 PTX only",
            shell=OTHER_ARCH,
            limit_s=90,
        ),
        Case(
            name="compile_ptxas",
            how="torch.compile with a ptxas that is handed sm_999",
            shell=f"mkdir w; {find}{script}TRITON_PTXAS_PATH=$PWD/w/ptxas TRITON_CACHE_DIR=$PWD/c TORCHINDUCTOR_CACHE_DIR=$PWD/i {PYTHON} compiled.py",
            limit_s=100,
        ),
        Case(
            name="compile_no_cc",
            how="torch.compile without a C compiler",
            code=COMPILED,
            env={"CC": "/nonexistent/cc", "PATH": "/usr/bin/none"},
            limit_s=100,
        ),
        Case(name="arch_warning", how="torch's own capability check with a list that lacks this GPU", code=WARN_ARCH),
        Case(
            name="nvml_wrong",
            how="libnvidia-ml of another version (stand-in): not provoked without a second driver",
            shell="echo not provoked: needs a second driver version",
        ),
    ]


def _frameworks() -> list[Case]:
    hide = {"CUDA_VISIBLE_DEVICES": "-1"}
    return [
        Case(
            name="trainer_cpu",
            how="transformers Trainer with hidden devices",
            code=TRAINER.replace("{extra}", ""),
            env=hide,
        ),
        Case(
            name="trainer_cpu_bf16",
            how="Trainer bf16 with hidden devices",
            code=TRAINER.replace("{extra}", "bf16=True"),
            env=hide,
        ),
        Case(
            name="trainer_cpu_fp16",
            how="Trainer fp16 with hidden devices",
            code=TRAINER.replace("{extra}", "fp16=True"),
            env=hide,
        ),
        Case(name="trainer_gpu", how="Trainer on the GPU", code=TRAINER.replace("{extra}", "bf16=True")),
        Case(
            name="lightning_cpu", how="Lightning with hidden devices", code=LIGHTNING.replace("{extra}", ""), env=hide
        ),
        Case(
            name="lightning_gpu_asked",
            how="Lightning accelerator='gpu' with hidden devices",
            code=LIGHTNING.replace("{extra}", "accelerator='gpu',"),
            env=hide,
        ),
        Case(
            name="lightning_unused",
            how="Lightning accelerator='cpu' with a GPU there",
            code=LIGHTNING.replace("{extra}", "accelerator='cpu',"),
        ),
        Case(name="lightning_gpu", how="Lightning on the GPU", code=LIGHTNING.replace("{extra}", "")),
        Case(
            name="accelerate_cpu",
            how="accelerate with hidden devices",
            code=ACCELERATE.replace("{extra}", ""),
            env=hide,
        ),
        Case(
            name="accelerate_fp16_cpu",
            how="accelerate fp16 with hidden devices",
            code=ACCELERATE.replace("{extra}", "mixed_precision='fp16'"),
            env=hide,
        ),
        Case(name="accelerate_gpu", how="accelerate on the GPU", code=ACCELERATE.replace("{extra}", "")),
        Case(
            name="autocast_cpu",
            how="autocast('cuda') and GradScaler with hidden devices",
            code="import torch\nwith torch.autocast('cuda'):\n    print(torch.ones(2, 2) @ torch.ones(2, 2))\ns = torch.amp.GradScaler('cuda')\n",
            env=hide,
        ),
        Case(
            name="load_cuda_on_cpu",
            how="torch.load of a CUDA checkpoint with hidden devices",
            shell=f"{PYTHON} -c \"import torch; torch.save(torch.ones(2).cuda(), 'a.pt')\"; CUDA_VISIBLE_DEVICES= {PYTHON} -c \"import torch; torch.load('a.pt')\"",
        ),
        Case(
            name="cupy_hidden", how="cupy with hidden devices", code="import cupy\nprint(cupy.ones(3) * 2)\n", env=hide
        ),
        Case(
            name="jax_hidden",
            how="jax with hidden devices",
            code="import jax\nprint(jax.devices())\nprint(jax.numpy.ones(3) * 2)\n",
            env=hide,
        ),
    ]


def _several() -> list[Case]:
    run = f"{PYTHON} -m torch.distributed.run --nproc_per_node=2 --master_port="
    return [
        Case(name="nccl_shared", how="two NCCL ranks on one GPU", shell=run + "29611 shared.py", limit_s=70),
        Case(
            name="rank_oom",
            how="one of two ranks out of memory, the other waits in gloo",
            shell=run + "29612 rank_oom.py",
            limit_s=80,
            alone=True,
        ),
        Case(
            name="dead_peer",
            how="NCCL with a peer that exits",
            shell=f"n=$({PYTHON} -c 'import torch; print(torch.cuda.device_count())'); if [ $n -lt 2 ]; then echo not provoked: one GPU only; else {run}29613 dead_peer.py; fi",
            limit_s=80,
        ),
        Case(
            name="rendezvous",
            how="a world of two of which one never comes",
            code="import os, torch.distributed as d\nfrom datetime import timedelta\nos.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29614', RANK='0', WORLD_SIZE='2')\nd.init_process_group('nccl', timeout=timedelta(seconds=8))\n",
        ),
        Case(
            name="refused",
            how="a rank whose master is not there",
            code="import os, torch.distributed as d\nfrom datetime import timedelta\nos.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29615', RANK='1', WORLD_SIZE='2')\nd.init_process_group('nccl', timeout=timedelta(seconds=8))\n",
        ),
        Case(
            name="port_taken",
            how="the master port is taken",
            code="import os, socket, torch.distributed as d\ns = socket.socket(); s.bind(('0.0.0.0', 29616)); s.listen()\nos.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29616', RANK='0', WORLD_SIZE='2')\nd.init_process_group('gloo')\n",
        ),
        Case(
            name="nccl_bad_interface",
            how="NCCL_SOCKET_IFNAME names no interface",
            code="import os, torch, torch.distributed as d\nos.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29617', RANK='0', WORLD_SIZE='1')\nd.init_process_group('nccl')\nx = torch.ones(2, device='cuda'); d.all_reduce(x); print(x)\n",
            env={"NCCL_SOCKET_IFNAME": "nothere0", "NCCL_DEBUG": "INFO"},
        ),
    ]


FILES = {
    "look.py": LOOK,
    "compiled.py": COMPILED,
    "shared.py": SHARED_GPU,
    "rank_oom.py": RANK_OOM,
    "dead_peer.py": DEAD_PEER,
    "hog.py": "import torch, time\nfree, _ = torch.cuda.mem_get_info()\nx = torch.empty(free - (4 << 30), dtype=torch.uint8, device='cuda')\ntime.sleep(60)\n",
    "hogall.py": "import torch, time\nfree, _ = torch.cuda.mem_get_info()\nx = torch.empty(free - (200 << 20), dtype=torch.uint8, device='cuda')\ntime.sleep(60)\n",
}


def provoke(case: Case, *, deadline: float) -> dict[str, object]:
    """Run one case in a folder of its own; its whole group is ended at the limit."""
    limit = min(case.limit_s, deadline - time.monotonic())
    if limit < 3:
        return {"how": case.how, "returncode": None, "output": "", "note": "not run: the budget was used up"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text)
        Path(folder, "case.py").write_text(case.code)
        argv = ["bash", "-c", case.shell] if case.shell else [PYTHON, "case.py"]
        env = {**os.environ, "TORCH_EXTENSIONS_DIR": f"{folder}/torch_extensions", **case.env}
        started = time.monotonic()
        with Path(folder, "output.txt").open("wb") as sink:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env=env,
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status: int | None = child.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        data = Path(folder, "output.txt").read_bytes()
    if len(data) > LARGEST_OUTPUT_BYTES:
        data = data[: LARGEST_OUTPUT_BYTES // 2] + b"\n[... cut ...]\n" + data[-LARGEST_OUTPUT_BYTES // 2 :]
    return {
        "how": case.how,
        "env": case.env,
        "code": textwrap.dedent(case.shell or case.code),
        "returncode": status,
        "seconds": round(time.monotonic() - started, 1),
        "output": data.decode("utf-8", "replace").replace(folder, "/tmp/case"),
    }


def main() -> int:
    """Provoke all cases: those that need the card for themselves one by one, the rest four at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=230)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget_s
    wanted = [case for case in cases() if not options.only or case.name in options.only]
    results: dict[str, dict[str, object]] = {}
    ask = functools.partial(provoke, deadline=deadline)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = {case.name: pool.submit(ask, case) for case in wanted if not case.alone}
        for name, future in together.items():
            results[name] = future.result()
    for case in wanted:
        if case.alone:
            results[case.name] = ask(case)
    options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    for name, result in results.items():
        print(
            f"{name:24} rc={result['returncode']} {result.get('seconds', '-')} s",
            str(result["output"])[-90:].replace("\n", " | "),
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
