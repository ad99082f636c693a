"""A training in the pretended torch: ``python guard_fake_training.py HOW SECONDS``.

``PRETENDED_CODE`` is run, here, at step number ``PRETENDED_AT``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

how, seconds = sys.argv[1], float(sys.argv[2])
at, code = int(os.environ.get("PRETENDED_AT", "0")), os.environ.get("PRETENDED_CODE", "")
torch.cuda.state["initialized"] = how != "cpu"
torch.cuda.state["broken"] = how == "no-statistics"
state = Path(os.environ["STANDIN_STATE"])
if how != "cpu":
    state.with_suffix(".new").write_text(f"{os.getpid()} {(2 << 30) + (600 << 20)}")
    state.with_suffix(".new").replace(state)
device = "cpu" if how in {"cpu", "decoy"} else "cuda:0"
weights = [torch.Tensor(64 << 20, device, requires_grad=True) for _ in range(4)]
optimizer = torch.optim.Optimizer(weights)
began, number = time.monotonic(), 0
while time.monotonic() - began < seconds:
    number += 1
    if number == at:
        exec(code)
    if how == "warm-up" and number == 12:
        for weight in weights:
            weight.device = "cpu"
    if how == "one-step-on-cpu":
        weights[3].device = "cpu" if number == 12 else "cuda:0"
    for weight in weights:
        weight.grad = torch.Tensor(weight.size, str(weight.device))
    optimizer.step()
    time.sleep(0.03)
if how == "killed":
    os._exit(0)
if how == "fails":
    sys.exit(3)
# The memory is held until the process is gone, as CUDA's is: the stand-in looks for it.
