"""What the kernel trace (W5) costs a training on a real GPU: in its window, around it, and afterwards.

    PYTHONPATH=src:. python tests/guard/guard_trace_cost.py [steps before and after]

Two trainings, one bound by the GPU and one by its launches, each in processes of its own, with the trace and without it
(the same steps, the hook on): the pauses, the steps within the window, and the median step after it, against the one
before it in the same process. What the same ratio is without a trace says what the noise is. Prints JSON, a line each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ongpu.guard.watcher import hooked_environment

TRACED = 3


def train(kind: str, steps: int) -> dict[str, Any]:
    """Train; the trace, where there is one, comes after ``steps`` steps."""
    import torch

    trace = sys.modules.get("ongpu_trace")
    if trace is not None:
        vars(trace)["WARM_UP_STEPS"] = steps
    width, batch, layers = (8192, 512, 4) if kind == "gpu-bound" else (256, 16, 24)
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)]).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    x = torch.randn(batch, width, device="cuda")
    times, used = [], []
    for _ in range(2 * steps + TRACED + 2):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        loss.item()
        torch.cuda.synchronize()
        optimizer.step()  # the hook, and with it the trace, comes at the end of this
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        free, total = torch.cuda.mem_get_info()
        used.append(total - free)
    # Step number steps: the profiler starts at its end. Number steps + TRACED: it is read at its end.
    before, after = times[steps // 4 : steps - 1], times[steps + TRACED + 2 :]
    return {
        "step_ms": round(statistics.median(before) * 1000, 3),
        "start_pause_ms": round((times[steps - 1] - statistics.median(before)) * 1000, 1),
        "window_step_ms": [round(one * 1000, 3) for one in times[steps : steps + TRACED - 1]],
        "read_pause_ms": round((times[steps + TRACED - 1] - statistics.median(before)) * 1000, 1),
        "after_to_before": round(statistics.median(after) / statistics.median(before), 4),
        "device_memory_mib": round((used[-1] - used[steps - 2]) / 2**20),
        "torch": torch.__version__,
    }


def main(steps: int) -> None:
    """Every kind, with and without, twice and in turn."""
    for turn in range(2):
        for kind in ("gpu-bound", "launch-bound"):
            for wanted in (TRACED, None):
                with tempfile.TemporaryDirectory() as folder:
                    command = [sys.executable, __file__, "--child", kind, str(steps)]
                    told = subprocess.run(
                        command,
                        env=hooked_environment(os.environ, folder=Path(folder), trace_steps=wanted),
                        capture_output=True,
                        check=True,
                        text=True,
                    )
                    records = [
                        json.loads(line)
                        for one in Path(folder).glob("*.jsonl")
                        for line in one.read_text().splitlines()
                    ]
                digests = [one for one in records if one["record"] == "trace"]
                row = {"kind": kind, "turn": turn, "trace": wanted is not None, **json.loads(told.stdout)}
                row["said"] = [
                    {key: one.get(key) for key in ("state", "reason", "steps", "cost_s", "launches")} for one in digests
                ]
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(train(sys.argv[2], int(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 150)
