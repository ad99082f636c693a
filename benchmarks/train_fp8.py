"""What float8 does to the loss: GPT-2 124M from the same start and in the same order, in several ways and seeds.

A line of ``benchmarks/train_plan.sh`` (plan ``fp8``); prints one JSON line a run and one ``RESULT {json}`` line. The
ways: our kernels in bfloat16, the same with ``fp8: true``, the plain operations in bfloat16, and the plain ones in
float32. How far the two bfloat16 ways part is the measure of what rounding alone does. Held-out losses are computed
in the same way for all but float32: in bfloat16, by the plain operations.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from ongpu.training.main import main as train

WAYS: Final[dict[str, dict[str, str]]] = {
    "kernels": {"kernels": "always"},
    "fp8": {"kernels": "always", "fp8": "true"},
    "plain": {"kernels": "never"},
    "float32": {"kernels": "never", "precision": "float32"},
}
EVERY: Final = 10


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="gpt2.fp8_losses")
    parser.add_argument("--data", type=Path, default=Path("data/train.jsonl"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--ways", default="kernels,fp8,plain", help="of each seed; float32 is run of the first alone")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which no other run is begun")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def losses(given: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """One run, and what its files say."""
    settings = {
        "model": "gpt2",
        "precision": "bfloat16",
        "learning_rate": "3.0e-4",
        "warmup_steps": "10",
        "weight_decay": "0.0",
        "vocab_multiple": "64",
        "max_seq_length": "256",
        "packing": "true",
        "batch_tokens": "8192",
        "eval_fraction": "0.1",
        "log_every": "50",
        "tensorboard": "false",
        **dict(one.partition("=")[::2] for one in given.set),
        **WAYS[way],
    }
    with tempfile.TemporaryDirectory() as folder:
        config, output = Path(folder, "config.yaml"), Path(folder, "run")
        config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()), "utf-8")
        argv = ["--config", config, "--output", output, "--dataset", given.data, "--device", "cuda"]
        if train([*map(str, argv), "--max_steps", str(given.steps), "--seed", str(seed)]):
            raise SystemExit(1)
        steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
        facts = json.loads((output / "run.json").read_text("utf-8"))
    return {
        "way": way,
        "seed": seed,
        "loss": [round(one["loss"], 4) for one in steps[EVERY - 1 :: EVERY]],
        "held_out": round(facts["held_out_loss"][-1][1], 4),
        "step_recorded": facts["step_recorded"],
        "torch": facts["torch"],
        "device": facts["device_name"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of the seeds, and the most that a way parts from our kernels in bfloat16 with the same seed."""
    found: dict[str, Any] = {}
    start = {row["seed"]: row for row in rows if row["way"] == "kernels"}
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        found[way] = {
            "seeds": len(mine),
            "loss": [round(sum(column) / len(mine), 4) for column in zip(*(row["loss"] for row in mine), strict=True)],
            "held_out": round(sum(row["held_out"] for row in mine) / len(mine), 4),
        }
        pairs = [(row, start[row["seed"]]) for row in mine if row["seed"] in start]
        if pairs and way != "kernels":
            apart = [[abs(a - b) for a, b in zip(row["loss"], other["loss"], strict=True)] for row, other in pairs]
            found[way] |= {
                "most_apart": [round(max(column), 4) for column in zip(*apart, strict=True)],
                "held_out_apart": [round(row["held_out"] - other["held_out"], 4) for row, other in pairs],
            }
    return found


def main() -> None:
    """Run all that there is time for."""
    given, began, rows = options(), time.perf_counter(), list[dict[str, Any]]()
    seeds = [int(one) for one in given.seeds.split(",")]
    ways = given.ways.split(",")
    plan = [(way, seed) for seed in seeds for way in ways if way != "float32"]
    plan += [("float32", seeds[0])] if "float32" in ways else []
    left_out = 0
    for way, seed in plan:
        if time.perf_counter() - began > given.until:
            left_out += 1
            continue
        rows.append(losses(given, way, seed))
        print(json.dumps(rows[-1]), flush=True)
    result = {"peer": given.peer, "ok": not left_out, "steps": given.steps, "every": EVERY, "left_out": left_out}
    print("RESULT " + json.dumps(result | summary(rows)), flush=True)


if __name__ == "__main__":
    main()
