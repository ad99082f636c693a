"""Weak scaling of our training: the same work for each GPU on 1, 2, 4, ... GPUs of one host, in one call.

    python benchmarks/train_scaling.py --gpus 1 2 4 --out scaling.jsonl

The Llama-shaped model of 1.08 billion parameters, random weights, bfloat16, whole documents packed, about 16,000
tokens a step and GPU. A row has the real tokens a second over the timed steps and ``linear``: that figure divided by
GPUs times the figure of the first row. Loading and saving are not counted. ``--model tiny --device cpu`` tries the
script itself without a GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_peer import llama_1b

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "precision": "bfloat16",
    "packing": True,
    "max_seq_length": 256,
    "batch_tokens": 16384,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "tensorboard": False,
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--parallel", default="auto")
    parser.add_argument("--model", default="llama1b", choices=["llama1b", "tiny", "gpt2"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the configuration")
    parser.add_argument("--out", type=Path, required=True, help="rows are appended here, one JSON object each")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each number of GPUs")
    return parser.parse_args()


def run(count: int, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train on ``count`` GPUs; returns the row, with the reason where it failed."""
    settings = {**SETTINGS, "model": given.model}
    if given.model == "llama1b":
        folder.mkdir()
        settings |= {"model": llama_1b(folder / "shape"), "weights": "random"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
    changed = dict(one.partition("=")[::2] for one in given.set)
    lines = [line for line in lines if line.partition(":")[0] not in changed]
    config, output = folder.with_suffix(".yaml"), folder.with_suffix(".out")
    config.write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in changed.items()), ""]), "utf-8")
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*launcher, ROOT / "training/run_train_torch.py", "--config", config, "--output", output]
    command += ["--device", given.device, "--parallel", given.parallel, "--explain"]
    command += ["--max_steps", given.warmup + given.steps]
    row: dict[str, Any] = {"gpus": count, "model": given.model, "parallel": given.parallel, "set": given.set}
    began = time.perf_counter()
    try:
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "8")}
        ended = subprocess.run(
            [*map(str, command)], env=environment, timeout=given.timeout, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired as error:
        return row | {"ok": False, "why": f"not done in {given.timeout:.0f} s", "said": str(error.stdout)[-2000:]}
    row["wall_s"] = round(time.perf_counter() - began, 1)
    if ended.returncode:
        return row | {
            "ok": False,
            "why": f"exit status {ended.returncode}",
            "said": (ended.stdout + ended.stderr)[-4000:],
        }
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    facts = json.loads((output / "run.json").read_text("utf-8"))
    timed = steps[given.warmup :]
    seconds, tokens = sum(one["seconds"] for one in timed), sum(one["tokens"] for one in timed)
    return row | {
        "ok": True,
        "tokens_per_s": round(tokens / seconds, 1),
        "step_ms": round(1e3 * seconds / len(timed), 2),
        "median_step_ms": round(1e3 * statistics.median(one["seconds"] for one in timed), 2),
        "tokens_a_step": round(tokens / len(timed), 1),
        "timed_steps": len(timed),
        "first_loss": round(steps[0]["loss"], 4),
        "last_loss": round(steps[-1]["loss"], 4),
        "memory_reserved_bytes": max(one["memory_reserved_bytes"] or 0 for one in steps),
        "set_up_parts": {name: round(value, 2) for name, value in facts["set_up_parts"].items()},
        "saving_s": round(facts["saving_seconds"], 2),
        "step_recorded": facts["step_recorded"],
        "choices": facts["choices"],
        "torch": facts["torch"],
        "device": facts["device_name"],
        "ranks": facts["ranks"],
    }


def main() -> int:
    """Every number of GPUs in turn; exit status 1 where one failed."""
    given = options()
    rows: list[dict[str, Any]] = []
    for count in given.gpus:
        with tempfile.TemporaryDirectory() as folder:
            row = run(count, given, Path(folder, "run"))
        if row["ok"]:
            first = next((one for one in rows if one["ok"]), row)
            row["linear"] = round(row["tokens_per_s"] / count / (first["tokens_per_s"] / first["gpus"]), 4)
        rows.append(row)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = ("gpus", "parallel", "tokens_per_s", "step_ms", "linear", "wall_s", "why", "said")
        print({key: row[key] for key in shown if key in row}, flush=True)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
