"""Our training as one more peer of the benchmark of SFT frameworks: one process, one ``RESULT {json}`` line.

Run by ``benchmarks/train_plan.sh`` in the benchmark's folder, which gives ``--peer NAME``, ``PEER_T0`` (process
start) and ``PEER_CEILING``. Every figure is computed from ``metrics.jsonl`` and ``run.json`` of the run;
saving is not counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from ongpu.training.main import main as train


def options() -> argparse.Namespace:
    """The command line: benchmark's names where it has them, ``--set key=value`` for the configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--steps", type=int, default=40, help="timed steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    parser.add_argument("--semantics", default="exact-docs")
    parser.add_argument("--model", default="gpt2", help="the benchmark's name of the shape, for its FLOP formula")
    parser.add_argument("--data", type=Path, default=Path("data/train.jsonl"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def run(given: argparse.Namespace) -> int:
    """Train, then print the result."""
    if os.environ.get("TRITON_CACHE_DIR"):  # compiled before in that folder, or not at all
        os.environ["ONGPU_KERNEL_CACHE"] = os.environ["TRITON_CACHE_DIR"] + "/ongpu"
    settings = {
        "model": "gpt2",
        "precision": "bfloat16",
        "learning_rate": "3.0e-4",
        "weight_decay": "0.0",
        "vocab_multiple": "64",
        "max_seq_length": "256",
        "packing": "true",
        "log_every": "10",
        **dict(one.partition("=")[::2] for one in given.set),
    }
    with tempfile.TemporaryDirectory() as folder:
        if given.model == "llama1b":
            settings |= {"model": llama_1b(Path(folder, "shape")), "weights": "random"}
        config, output = Path(folder, "config.yaml"), Path(folder, "run")
        config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()), "utf-8")
        total = given.warmup + given.steps
        argv = ["--config", config, "--output", output, "--dataset", given.data, "--device", "cuda", "--explain"]
        status = train([*map(str, argv), "--max_steps", str(total)])
        if status:
            return status
        steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
        facts = json.loads((output / "run.json").read_text("utf-8"))
    print("RESULT " + json.dumps(result(given, settings, steps, facts)), flush=True)
    return 0


def llama_1b(folder: Path) -> str:
    """The benchmark's Llama-shaped model of 1.08 billion parameters, as a folder with nothing but a config.json."""
    folder.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 50304,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


def precision(settings: dict[str, str]) -> str:
    """The benchmark's word for it: rows of another one are not compared."""
    if settings["precision"] != "bfloat16":
        return "fp32"
    return "bf16+fp8" if settings.get("fp8") == "true" else "bf16"


def result(
    given: argparse.Namespace,
    settings: dict[str, str],
    steps: list[dict[str, Any]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The fields the benchmark's summary reads."""
    sys.path.insert(0, str(Path.cwd()))
    common: Any = importlib.import_module("common")
    model = common.model_cfg(given.model)
    stats = common.doc_stats(common.load_docs())
    flops = common.flops_per_token(model, stats["avg_ctx"])
    timed = steps[given.warmup :]
    records = facts["samples"] / len(steps)
    seconds, tokens = sum(one["seconds"] for one in timed), sum(one["tokens"] for one in timed)
    began_at = float(os.environ.get("PEER_T0") or facts["started_at"])
    first_s = facts["started_at"] + facts["set_up_seconds"] - began_at
    peak = common.peak_tflops() * 1e12
    return {
        "peer": given.peer,
        "ok": True,
        "model": given.model,
        "precision": precision(settings),
        "semantics": given.semantics,
        "steps": len(steps),
        "timed_steps": len(timed),
        "batch_samples": round(records, 1),
        "wall_s": round(seconds, 4),
        "step_ms": round(1e3 * seconds / len(timed), 3),
        "real_tokens": tokens,
        "real_tokens_per_s": round(tokens / seconds, 1),
        "samples_per_s": round(records * len(timed) / seconds, 2),
        "mfu_vs_measured_peak": round(tokens * flops / seconds / peak, 4),
        "measured_peak_tflops": round(peak / 1e12, 1),
        "flops_per_token": flops,
        "peak_mem_gb": round(max(one["memory_reserved_bytes"] for one in steps) / 1e9, 2),
        "first_loss": round(steps[0]["loss"], 4),
        "last_loss": round(sum(one["loss"] for one in steps[-5:]) / 5, 4),
        "t_setup_s": round(facts["set_up_seconds"], 2),
        "ttfs_s": round(first_s, 2),
        "wall50_s": round(first_s + sum(one["seconds"] for one in steps[1:50]), 2),
        "wall50_measured": len(steps) >= 50,
        "saving_s": round(facts["saving_seconds"], 2),
        "set_up_parts": facts["set_up_parts"],
        "choices": facts["choices"],
        "step_recorded": facts["step_recorded"],
        "torch": facts["torch"],
        "device": facts["device_name"],
    }


if __name__ == "__main__":
    sys.exit(run(options()))
