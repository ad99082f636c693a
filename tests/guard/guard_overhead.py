"""What the guard costs a training on a real GPU: the ratio of median step times, guarded to unguarded, in one run.

    PYTHONPATH=src:. python tests/guard/guard_overhead.py [seconds]

One process trains; blocks of about two seconds alternate between guarded (the hook looks after every step, the sampler
runs) and not (the hook's work is skipped, the sampler is stopped by SIGSTOP). Interleaved, because a step's time
drifts more between runs than the guard costs; by medians over blocks, with a bootstrap interval; the same comparison of
unguarded blocks among themselves says what the noise is. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ongpu.guard.watcher import Watcher, hooked_environment

BLOCK_S = 2.0


def train(seconds: float) -> dict[str, Any]:
    """Train in alternating blocks; this process was started with the hook on its path."""
    import torch

    witness = next(one for one in _witnesses())
    guarded_step = witness.step
    watcher = Watcher(baseline_s=0.2)
    while (line := watcher.next_line(5.0)) is not None and line.get("kind") != "baseline":
        pass
    watcher.tell({"watch": os.getpid(), "reaper": os.getpid()})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = 8192 if device == "cuda" else 512
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(8)]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    x = torch.randn(2048 if device == "cuda" else 64, width, device=device)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - began

    for _ in range(20):
        step()
    time.sleep(12)  # past the sampler's fast first ten seconds
    blocks: list[tuple[bool, float]] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        guarded = len(blocks) % 2 == 0
        witness.step = guarded_step if guarded else (lambda _optimizer: None)
        os.kill(watcher.pid, signal.SIGCONT if guarded else signal.SIGSTOP)
        until, times = time.monotonic() + BLOCK_S, []
        while time.monotonic() < until:
            times.append(step())
        blocks.append((guarded, statistics.mean(times)))
        while watcher.next_line(0) is not None:
            pass
    os.kill(watcher.pid, signal.SIGCONT)
    witness.step = guarded_step
    watcher.finish()
    watcher.close()
    on = [value for guarded, value in blocks if guarded]
    off = [value for guarded, value in blocks if not guarded]
    return {
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "step_ms": round(statistics.median(off) * 1000, 3),
        "blocks": len(blocks),
        "ratio": round(statistics.median(on) / statistics.median(off), 5),
        "ratio_95": _interval(on, off),
        "noise_95": _interval(off[::2], off[1::2]),
        "sampler_error": watcher.error,
    }


def _interval(on: list[float], off: list[float]) -> list[float]:
    draws = random.Random(0)
    ratios = sorted(
        statistics.median(draws.choices(on, k=len(on))) / statistics.median(draws.choices(off, k=len(off)))
        for _ in range(2000)
    )
    return [round(ratios[49], 5), round(ratios[1949], 5)]


def _witnesses() -> list[Any]:
    """The hook's object in this process: the one that waits for torch has been told of it."""
    import gc

    return [one for one in gc.get_objects() if type(one).__name__ == "Witness" and hasattr(one, "_steppers")]


if __name__ == "__main__":
    if "ONGPU_HOOK_DIR" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="ongpu-overhead-"))
        os.execve(sys.executable, [sys.executable, *sys.argv], hooked_environment(os.environ, folder=folder))
    try:
        print(json.dumps(train(float(sys.argv[1]) if sys.argv[1:] else 120.0)))
    finally:
        shutil.rmtree(os.environ["ONGPU_HOOK_DIR"], ignore_errors=True)
