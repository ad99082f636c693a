"""The command line of the reference training, from options to exit status.

Exit status: 0 trained; 1 the work failed; 2 an option, the configuration or the data is wrong; 3 blocked, with the
cause named; 130 stopped by Ctrl-C or SIGTERM, with a checkpoint. Log lines go to standard output, errors and the
progress bar (on a terminal only) to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ongpu.errors import BlockedError, InterruptedRunError, OngpuError, UsageError, WorkError
from ongpu.training import config as configuration
from ongpu.training import device as devices
from ongpu.training import records as record_files
from ongpu.training.config import Config
from ongpu.training.console import Console
from ongpu.training.data import BytePairTokenizer, Example, Tokenizer, encode
from ongpu.training.output import RunFolder

if TYPE_CHECKING:
    from ongpu.training.loop import Job

# settings that change where a run writes or what it says, not the numbers it computes
_NOT_COMPUTED = frozenset({"output", "device", "log_every", "save_every", "keep_checkpoints", "tensorboard", "dataset"})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", next_step="Run it with --help for the options.")


def main(argv: Sequence[str]) -> int:
    """Train as ``argv`` says; returns the exit status and never raises an :class:`OngpuError`."""
    console = Console()
    try:
        _train(_options(argv), console)
    except OngpuError as error:
        cause = f" [{error.cause}]" if isinstance(error, BlockedError) else ""
        lines = error.lines if isinstance(error, BlockedError) else ()
        console.error(f"error{cause}: {error.message}", *(f"  | {line}" for line in lines), f"next: {error.next_step}")
        return error.exit_status
    except KeyboardInterrupt:
        console.error("error: Interrupted at once; the step in progress is lost.", "next: Run it again.")
        return InterruptedRunError.exit_status
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="run_train_torch.py",
        description="Train a causal language model on reasoning traces, on the device that was asked for.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="YAML file; without it the embedded tiny model is trained")
    parser.add_argument("--output", help="folder of this run; it must not hold another")
    parser.add_argument("--dataset", help="dev-reasoning-v2, or the path of a JSON Lines file")
    parser.add_argument(
        "--device", help="cuda (never anything else), cpu, or auto (the CPU only without any NVIDIA GPU)"
    )
    parser.add_argument("--max_steps", "--max-steps", type=int, help="optimizer steps")
    parser.add_argument("--seed", type=int, help="of weights and data order")
    parser.add_argument("--on-bad-record", "--on_bad_record", help="fail (default) or skip, with a count")
    parser.add_argument("--resume", action="store_true", help="continue from the newest good checkpoint in --output")
    return parser.parse_args(argv)


def _train(options: argparse.Namespace, console: Console) -> None:
    began = time.perf_counter()
    config = configuration.load(options.config) if options.config else Config()
    names = ("output", "dataset", "device", "max_steps", "seed", "on_bad_record")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    config = configuration.override(config, given)
    folder = RunFolder.claim(Path(config.output), resume=options.resume)
    try:
        with devices.watched_warnings() as warned:
            _run(config, folder, console, resume=options.resume, warned=warned, began=began)
    finally:
        folder.close()
        folder.release()


def _run(
    config: Config, folder: RunFolder, console: Console, *, resume: bool, warned: Sequence[str], began: float
) -> None:
    variables = dict(os.environ)
    torch = _torch()
    chosen = devices.choose(config.device, hardware=devices.nvidia_hardware(), variables=variables)
    console.say(f"Using device: {chosen.kind}", f"Device name: {chosen.title}, torch {torch.__version__}")
    console.say(*chosen.notes)
    torch.manual_seed(config.seed)
    if config.precision == "float32":
        torch.set_float32_matmul_precision("highest")

    source = record_files.load(config.dataset, skip_bad=config.on_bad_record == "skip")
    model, tokenizer = _model(config, source.records)
    length = min(config.max_seq_length, model.context_length)
    examples = _examples(source, tokenizer, config, length, console)
    model.to(chosen.kind)
    job = _job(
        config,
        device=chosen.kind,
        model=model,
        fill=tokenizer.end_id,
        examples=examples,
        data_sha256=source.sha256,
        folder=folder,
        warned=warned,
    )
    weights = sum(weight.numel() for weight in model.parameters())
    console.say(f"Model: {config.model}, {weights:,} parameters, {config.precision}")
    _check_room(folder.path, weights)
    done = _resume(job, console) if resume else 0
    facts: dict[str, object] = {
        "config": dataclasses.asdict(config),
        "data": {"name": source.name, "sha256": source.sha256, "records": len(source.records)},
        "skipped_lines": [one.number for one in source.skipped],
        "cut_records": sum(example.cut_tokens > 0 for example in examples),
        "device": chosen.kind,
        "device_name": chosen.title,
        "torch": str(torch.__version__),
        "parameters": weights,
        "resumed_from_step": done,
    }
    folder.write_state("running", facts)
    try:
        figures = _steps(job, console, done=done, variables=variables, began=began)
        folder.save_model(lambda staged: _write_model(staged, model, tokenizer))
        folder.write_state("finished", {**facts, **figures})
    except BaseException as error:
        stopped = isinstance(error, (InterruptedRunError, KeyboardInterrupt))
        _note_end(folder, "interrupted" if stopped else "failed", {**facts, "reason": str(error)})
        raise
    console.say(f"Saved: {folder.path} (config.json, model.safetensors, tokenizer; metrics.jsonl has every step)")


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415 - imported after everything that can be refused without it
    except ImportError as error:
        raise BlockedError(
            f"torch cannot be imported: {error}.",
            next_step="Run 'ongpu plan' for the build this machine needs, and install it in a fresh environment.",
            cause=devices.cause_of(str(error)).value if "No module" not in str(error) else "python-env",
        ) from None
    return torch


def _model(config: Config, records: Sequence[record_files.Record]) -> tuple[Any, Tokenizer]:
    if config.model not in {"tiny", "gpt2"}:
        from ongpu.training import hub  # noqa: PLC0415 - the only path that needs transformers

        return hub.load(config.model)
    from ongpu.training import model as models  # noqa: PLC0415 - imports torch

    texts = [record.question + record.completion for record in records]
    tokenizer = BytePairTokenizer.from_texts(texts, vocab_size=config.vocab_size)
    if config.model == "gpt2":
        shape = models.gpt2_shape(end_id=tokenizer.end_id)
    else:
        shape = models.tiny_shape(vocab_size=-(-tokenizer.size // 64) * 64, end_id=tokenizer.end_id)
    return models.build(shape, seed=config.seed), tokenizer


def _examples(
    source: record_files.Records, tokenizer: Tokenizer, config: Config, length: int, console: Console
) -> tuple[Example, ...]:
    if length < config.max_seq_length:
        console.say(
            f"The model takes {length} tokens at most, so max_seq_length {config.max_seq_length} becomes {length}."
        )
    made = encode(source.records, tokenizer, max_length=length, completion_only=config.loss_on == "completion")
    usable = tuple(example for example in made if example.has_targets)
    cut = [example for example in made if example.cut_tokens]
    console.say(
        f"Data: {source.name}, {len(source.records)} records, sha256 {source.sha256}",
        f"Data: {len(cut)} of {len(made)} records are longer than {length} tokens and were cut, "
        f"{sum(example.cut_tokens for example in cut):,} tokens in all.",
    )
    if source.skipped:
        first = source.skipped[0]
        console.say(f"Data: {len(source.skipped)} bad lines skipped; the first is line {first.number}: {first.reason}.")
    if len(usable) < len(made):
        console.say(f"Data: {len(made) - len(usable)} records left out: their prompt alone fills the {length} tokens.")
    if not usable:
        raise UsageError(
            f"No record has anything to learn within {length} tokens.", next_step="Raise max_seq_length in the config."
        )
    return usable


def _job(
    config: Config,
    *,
    device: str,
    model: Any,
    fill: int,
    examples: tuple[Example, ...],
    data_sha256: str,
    folder: RunFolder,
    warned: Sequence[str],
) -> Job:
    from ongpu.training.loop import Job  # noqa: PLC0415 - imports torch
    from ongpu.training.optimizer import AdamW  # noqa: PLC0415 - imports torch

    optimizer = AdamW(
        model.parameters(),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
    )
    skip = _NOT_COMPUTED | ({"max_steps"} if config.lr_schedule == "constant" else frozenset())
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in skip}
    tokens = hashlib.sha256(repr([example.ids for example in examples]).encode()).hexdigest()
    settings |= {"data_sha256": data_sha256, "tokens_sha256": tokens}
    return Job(
        config=config,
        device=device,
        model=model,
        optimizer=optimizer,
        examples=examples,
        fill=fill,
        folder=folder,
        settings=settings,
        warnings=warned,
    )


def _resume(job: Job, console: Console) -> int:
    from ongpu.training import checkpoint, loop  # noqa: PLC0415 - imports torch

    found = checkpoint.newest(job.folder.path, note=console.say)
    if found is None:
        raise UsageError(
            f"{job.folder.path} has no good checkpoint to resume from.", next_step="Start afresh in another --output."
        )
    if found.step >= job.config.max_steps:
        raise UsageError(
            f"The checkpoint {found.path} already has {found.step} of {job.config.max_steps} steps.",
            next_step="Give a larger --max_steps.",
        )
    loop.restore(job, found)
    job.folder.forget_after(found.step)
    console.say(f"Resuming after step {found.step} from {found.path}")
    return found.step


def _steps(job: Job, console: Console, *, done: int, variables: Mapping[str, str], began: float) -> dict[str, object]:
    import torch  # noqa: PLC0415 - see _torch

    from ongpu.training import loop  # noqa: PLC0415 - imports torch
    from ongpu.training.events import EventLog  # noqa: PLC0415 - imports torch

    events = EventLog.open(job.folder.path, wanted=job.config.tensorboard, first_step=done + 1, note=console.say)
    series: list[loop.StepRecord] = []

    def on_step(record: loop.StepRecord) -> None:
        if not series:
            console.say(f"Set-up until the first step was done: {time.perf_counter() - began:.1f} s")
        series.append(record)
        job.folder.record(dataclasses.asdict(record))
        events.add(record.step, loss=record.loss, lr=record.lr, tokens_per_s=record.tokens_per_s)
        last = record.step in {1, done + 1, job.config.max_steps}
        console.step(record, total=job.config.max_steps, line=last or record.step % job.config.log_every == 0)

    try:
        with loop.stop_on_signal() as stop:
            loop.train(job, done=done, stop=stop, on_step=on_step)
        events.close()
    except torch.cuda.OutOfMemoryError as error:
        raise devices.explain_failure(error, variables=variables) from None
    except RuntimeError as error:
        if job.device != "cuda" or "CUDA" not in str(error):
            raise
        raise devices.explain_failure(error, variables=variables) from None
    finally:
        events.abandon()
        console.close()
    steady = series[1:] or series
    seconds = sum(record.seconds for record in series)
    per_s = statistics.median(record.tokens_per_s for record in steady)
    samples = len(series) * job.config.batch_size * job.config.grad_accumulation_steps
    median_ms = 1e3 * statistics.median(record.seconds for record in steady)
    console.say(
        f"Trained {len(series)} steps on {job.device} in {seconds:.2f} s: {samples / seconds:.1f} samples/s, "
        f"median step {median_ms:.1f} ms, {per_s:,.0f} tokens/s, "
        f"loss {series[0].loss:.4f} -> {series[-1].loss:.4f}"
    )
    return {"steps": series[-1].step, "seconds": seconds, "first_loss": series[0].loss, "last_loss": series[-1].loss}


def _write_model(staged: Path, model: Any, tokenizer: Tokenizer) -> None:
    model.save(staged)
    tokenizer.save(staged)


def _check_room(path: Path, weights: int) -> None:
    """Refuse before the first step what could not be saved after the last one."""
    free_bytes, needed_bytes = shutil.disk_usage(path).free, weights * 4
    if free_bytes < needed_bytes:
        raise WorkError(
            f"The disk of {path} has {free_bytes / 2**20:,.0f} MiB left, and the model alone takes "
            f"{needed_bytes / 2**20:,.0f} MiB.",
            next_step="Make room, or choose an --output on another disk.",
        )


def _note_end(folder: RunFolder, state: str, facts: Mapping[str, object]) -> None:
    """Write the state, but never in place of the error that is on its way."""
    try:
        folder.write_state(state, facts)
    except WorkError:
        return
