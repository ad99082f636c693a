"""The reference training beside others at a size that any CPU can do: the same records, model shape and optimizer.

Each way is a process of its own, in turn, for some rounds; a way's figure is the median of its rounds, in tokens that
are learned from a second of training, start-up not counted. Machines differ and are shared: read the ratios of one run.

    python benchmarks/train_cpu.py [--steps 16] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

BATCH: Final = 16
LENGTH: Final = 256
WARM_UP: Final = 3
WAYS: Final = ("ours, packed", "ours, rows", "transformers, plain loop", "transformers, Trainer")


def ours(steps: int, *, packing: bool) -> tuple[int, float]:
    """Labels learned from and seconds of the steps after the warm-up, from ``metrics.jsonl``."""
    from ongpu.training.main import main as train  # noqa: PLC0415 - each way imports what it needs

    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder, "job.yaml"), Path(folder, "out")
        settings = {"batch_size": BATCH, "max_seq_length": LENGTH, "packing": packing, "tensorboard": False}
        config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()), "utf-8")
        argv = ["--config", str(config), "--output", str(out), "--device", "cpu", "--max_steps", str(steps + WARM_UP)]
        if train(argv):
            raise SystemExit(1)
        lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()[WARM_UP:]
    records = [json.loads(line) for line in lines]
    return sum(one["tokens"] for one in records), sum(one["seconds"] for one in records)


def theirs(steps: int, *, trainer: bool) -> tuple[int, float]:
    """The same shape from transformers, rows padded to the longest of their batch."""
    import torch  # noqa: PLC0415 - each way imports what it needs
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    from ongpu.training import records  # noqa: PLC0415
    from ongpu.training.data import BytePairTokenizer, encode  # noqa: PLC0415
    from ongpu.training.gpt2 import tiny_shape  # noqa: PLC0415

    source = records.load("dev-reasoning-v2", skip_bad=False).records
    tokenizer = BytePairTokenizer.from_texts([one.question + one.completion for one in source], vocab_size=2048)
    rows = [list(one.ids) for one in encode(source, tokenizer, max_length=LENGTH, completion_only=False)]
    shape = tiny_shape(vocab_size=tokenizer.size, end_id=tokenizer.end_id)
    torch.manual_seed(42)
    model = GPT2LMHeadModel(GPT2Config(**{**shape.to_config(), "use_cache": False}))
    starts = [BATCH * step % (len(rows) - BATCH) for step in range(steps + WARM_UP)]
    batches = [_padded(rows[start : start + BATCH]) for start in starts]
    began: list[float] = []
    if trainer:
        return _with_trainer(model, batches, began)
    tokens = sum(_learned(batch) for batch in batches[WARM_UP:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            began.append(time.perf_counter())
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return tokens, time.perf_counter() - began[0]


def _learned(batch: dict[str, Any]) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def _padded(rows: list[list[int]]) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - each way imports what it needs

    longest = max(map(len, rows))
    filled = [(row + [0] * (longest - len(row)), row + [-100] * (longest - len(row))) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    ids, labels = zip(*filled, strict=True)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}


def _with_trainer(model: Any, batches: list[dict[str, Any]], began: list[float]) -> tuple[int, float]:
    """It shuffles the batches, so tokens are counted in the order in which it takes them."""
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415

    taken: list[int] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        taken.append(_learned(rows[0]))
        return rows[0]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == WARM_UP:
                began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            per_device_train_batch_size=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        runner = Trainer(model=model, args=arguments, train_dataset=batches, data_collator=collate)
        runner.add_callback(Clock())
        runner.train()
        return sum(taken[WARM_UP : len(batches)]), time.perf_counter() - began[0]


def measure(way: str, steps: int) -> dict[str, Any]:
    """One way in this process."""
    kind, _, rest = way.partition(", ")
    tokens, seconds = (
        ours(steps, packing=rest == "packed") if kind == "ours" else theirs(steps, trainer=rest == "Trainer")
    )
    return {"way": way, "tokens": tokens, "seconds": round(seconds, 4), "tokens_per_s": round(tokens / seconds, 1)}


def main() -> int:
    """Run all ways in turn, print a table, and leave the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print("ROW " + json.dumps(measure(given.way, given.steps)))
        return 0
    rows: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        for way in WAYS:
            if way.endswith("Trainer") and importlib.util.find_spec("accelerate") is None:
                continue
            argv = [sys.executable, __file__, "--way", way, "--steps", str(given.steps)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            found = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
            if done.returncode or not found:
                print(f"{way} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}", file=sys.stderr)
                return 1
            rows.append(json.loads(found[0][4:]))
    medians = {
        way: statistics.median(row["tokens_per_s"] for row in rows if row["way"] == way)
        for way in dict.fromkeys(row["way"] for row in rows)
    }
    for way, figure in medians.items():
        print(f"{way:28s} {figure:>10,.0f} tokens/s   {figure / medians[WAYS[2]]:.2f} of the plain loop")
    if "transformers, Trainer" not in medians:
        print("transformers, Trainer        not run: accelerate is not installed")
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "medians": medians}, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
