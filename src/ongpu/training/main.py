"""The command line of the reference training, from options to exit status.

Exit status: 0 trained; 1 the work failed; 2 an option, the configuration or the data is wrong; 3 blocked, with the
cause named; 130 stopped by Ctrl-C or SIGTERM, with a checkpoint. Log lines go to standard output, errors and the
progress bar (on a terminal only) to standard error.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError, InterruptedRunError, OngpuError, UsageError, WorkError
from ongpu.training import config as configuration
from ongpu.training import device as devices
from ongpu.training import toolchain
from ongpu.training.config import Config
from ongpu.training.console import Console, SetUp
from ongpu.training.output import Elsewhere, RunFolder
from ongpu.training.ranks import Alone, join, unexpected
from ongpu.training.signals import StopRequest, stop_on_signal
from ongpu.training.wake import wake

if TYPE_CHECKING:
    from ongpu.training.assemble import Model
    from ongpu.training.loop import Job
    from ongpu.training.prepared import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The switches of the command line."""

    resume: bool
    explain: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", next_step="Run it with --help for the options.")


def main(argv: Sequence[str]) -> int:
    """Train as ``argv`` says; returns the exit status and never raises an :class:`OngpuError`."""
    console, ranks = Console(), Alone()
    try:
        ranks = join(os.environ)
        console.silent = not ranks.first
        _train(_options(argv), console, ranks)
    except OngpuError as error:
        if ranks.tell(error):
            cause = f" [{error.cause}]" if isinstance(error, BlockedError) else ""
            who = f"rank {ranks.rank} of {ranks.world_size}: " if ranks.world_size > 1 else ""
            lines = error.lines if isinstance(error, BlockedError) else ()
            console.error(
                f"error{cause}: {who}{error.message}", *(f"  | {line}" for line in lines), f"next: {error.next_step}"
            )
        return error.exit_status
    except KeyboardInterrupt as error:
        ranks.tell(unexpected(error))
        console.error(
            "error: Interrupted at once; what was in progress is lost.",
            "next: Run it again, with --resume where there is a checkpoint.",
        )
        return InterruptedRunError.exit_status
    except Exception as error:
        ranks.tell(unexpected(error))
        raise
    finally:
        ranks.leave()
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
    parser.add_argument(
        "--max_seq_length",
        "--max-seq-length",
        type=int,
        help="tokens of a record that are kept; the rest is counted",
    )
    parser.add_argument("--fp8", action="store_true", default=None, help="products of the blocks in float8")
    parser.add_argument("--parallel", help="of several ranks: ddp, fsdp or auto")
    parser.add_argument("--seed", type=int, help="of weights and data order")
    parser.add_argument("--on-bad-record", "--on_bad_record", help="fail (default) or skip, with a count")
    parser.add_argument("--resume", action="store_true", help="continue from the newest good checkpoint in --output")
    parser.add_argument("--explain", action="store_true", help="print which speed-ups this run takes, and why")
    return parser.parse_args(argv)


def _train(options: argparse.Namespace, console: Console, ranks: Alone) -> None:
    set_up = SetUp(time.perf_counter())
    config = configuration.load(options.config) if options.config else Config()
    names = ("output", "dataset", "device", "max_steps", "max_seq_length", "seed", "on_bad_record", "parallel", "fp8")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    config = configuration.override(config, given)
    asked = _Asked(resume=options.resume, explain=options.explain)
    path = Path(config.output)
    folder = RunFolder.claim(path, resume=options.resume) if ranks.first else Elsewhere(path)
    try:
        with devices.watched_warnings() as warned, ranks.blamed():
            _run(config, folder, console, ranks, asked=asked, warned=warned, set_up=set_up)
    finally:
        folder.close()
        folder.release()


def _run(
    config: Config,
    folder: RunFolder,
    console: Console,
    ranks: Alone,
    *,
    asked: _Asked,
    warned: Sequence[str],
    set_up: SetUp,
) -> None:
    variables, started_at = dict(os.environ), time.time() - set_up.so_far()
    hardware = devices.nvidia_hardware()
    if config.device == "cuda" or (config.device == "auto" and hardware):
        wake(ranks.local_rank)
    torch = _torch()
    from ongpu.training import assemble, loop, policy  # noqa: PLC0415 - imports torch

    set_up.done("import torch")

    chosen = devices.choose(config.device, hardware=hardware, variables=variables, local_rank=ranks.local_rank)
    # weights are drawn or read while the GPU's libraries load: neither holds the interpreter's lock for long
    aside = concurrent.futures.ThreadPoolExecutor(max_workers=2)
    place = torch.device(chosen.kind, torch.cuda.current_device()) if chosen.kind == "cuda" else torch.device("cpu")
    # of several ranks each may get only a part of what does not fit on one
    on = place if ranks.world_size == 1 else torch.device("cpu")
    opened = aside.submit(_open, config, variables, writes=ranks.local_rank == 0, device=on)
    loaded = aside.submit(devices.load_libraries, place)
    aside.shutdown(wait=False)
    crew = ranks.meet({"device": chosen.kind, "title": chosen.title, "uuid": chosen.uuid})
    console.say(f"Using device: {chosen.kind}", f"Device name: {chosen.title}, torch {torch.__version__}")
    console.say(*chosen.notes)
    set_up.done("device")
    if ranks.world_size > 1:
        devices.refuse_mixed(crew)
        console.say(
            *(f"Rank {one['rank']} of {len(crew)}: {one['host']}, {one['title']} {one['uuid']}" for one in crew)
        )
        ranks.start(chosen.kind)
        set_up.done("connections")
    torch.manual_seed(config.seed + ranks.rank)
    if config.precision == "float32":
        torch.set_float32_matmul_precision("highest")

    with _named_failures(chosen.kind, variables):
        loaded.result()
        set_up.done("libraries of the device")
        source, model, said = opened.result()
    console.say(*said)
    if config.lora_rank:
        from ongpu.training import lora  # noqa: PLC0415 - imports torch

        console.say(lora.add(model.network, config, native=model.native))
    set_up.done("data and model")
    examples = assemble.make_examples(source, model, config, say=console.say)
    set_up.done("tokens")
    weights = sum(weight.numel() for weight in model.network.parameters())
    learned = sum(weight.numel() for weight in model.network.parameters() if weight.requires_grad)
    console.say(f"Model: {config.model}, {weights:,} parameters, {config.precision}")
    if ranks.first:
        folder.refuse_full_disk(learned)
    unfused = without_float8 = ""
    kept = None
    if model.native:
        capability = torch.cuda.get_device_capability() if chosen.kind == "cuda" else None
        sizes = model.network.sizes
        missing = toolchain.missing(variables, capability=capability, head_width=sizes.head_width)
        unfused = missing or model.network.unfused()
        without_float8 = toolchain.missing_for_float8(capability=capability, widths=(sizes.width, sizes.inner))
        if capability and not unfused:
            kept = assemble.kept_kernels(
                config, model, examples, capability=capability, variables=variables, ranks=ranks, say=console.say
            )
    if config.lora_rank:
        unfused = "they do not know LoRA's adapters"
    team = policy.Team(weights=weights, memory_bytes=chosen.memory_bytes) if ranks.world_size > 1 else None
    policies = policy.choose(
        config,
        device=chosen.kind,
        native=model.native,
        unfused=unfused,
        without_float8=without_float8,
        # what one rank has kept another may not have, and all must take the same
        kept=kept.load if kept and ranks.world_size == 1 else lambda: False,
        team=team,
    )
    console.say(*(f"Choice: {choice}" for choice in (policies.choices if asked.explain else policies.said)))
    evaluations: list[tuple[int, float]] = []

    def on_evaluation(step: int, loss: float) -> None:
        evaluations.append((step, loss))
        console.say(f"step {step}/{config.max_steps}  held-out loss {loss:.4f}")

    with _named_failures(chosen.kind, variables), ranks.blamed():
        job = assemble.make_job(
            config,
            device=chosen.kind,
            model=model,
            examples=examples,
            data_sha256=source.sha256,
            policy=policies,
            kept=kept,
            folder=folder,
            ranks=ranks,
            warnings=warned,
            say=console.say,
            on_evaluation=on_evaluation,
        )
    # with other kernels the gradients come in another order, and ranks would add up what does not belong together
    agreed = {**job.settings, "kernels": job.policy.kernels.taken, "in parts": job.weights.in_parts}
    other = ranks.differs("settings", json.dumps(agreed, sort_keys=True))
    if other is not None:
        raise UsageError(
            f"Rank {other} has another configuration, data, tokenizer or choice of kernels than rank 0.",
            next_step="Give every node the same files and the same packages (kernels: never, if one has no Triton).",
        )
    loop.refuse_apart(job)
    set_up.done("weights to the device")
    done = _resume(job, console) if asked.resume else 0
    facts: dict[str, object] = {
        "started_at": started_at,
        "config": dataclasses.asdict(config),
        "data": {"name": source.name, "sha256": source.sha256, "records": source.count},
        "skipped_lines": [one.number for one in source.skipped],
        "cut_records": examples.cut_records,
        "device": chosen.kind,
        "device_name": chosen.title,
        "torch": str(torch.__version__),
        "parameters": weights,
        "ranks": crew if ranks.world_size > 1 else [],
        "choices": [str(choice) for choice in job.policy.choices],
        "resumed_from_step": done,
    }
    folder.write_state("running", facts)
    try:
        # a signal that comes while the model is saved ends nothing: all steps are done, and this keeps them
        with _named_failures(chosen.kind, variables), ranks.blamed(), stop_on_signal() as stop:
            figures = _steps(job, console, done=done, set_up=set_up, stop=stop)
            saving = time.perf_counter()
            loop.refuse_spoiled(job, config.max_steps)
            job.weights.restore()
            folder.save_model(lambda staged: model.save(staged, config))
            figures["saving_seconds"] = time.perf_counter() - saving
        folder.write_state("finished", {**facts, **figures, "held_out_loss": evaluations})
        ranks.share("saved", lambda: True)
    except BaseException as error:
        stopped = isinstance(error, (InterruptedRunError, KeyboardInterrupt))
        with contextlib.suppress(WorkError):  # in place of the error that is on its way it would say less
            folder.write_state("interrupted" if stopped else "failed", {**facts, "reason": str(error)})
        raise
    saved = "adapter_config.json, adapter_model.safetensors" if config.lora_rank else "config.json, model.safetensors"
    console.say(f"Saved: {folder.path} ({saved}, tokenizer; metrics.jsonl has every step)")


def _open(
    config: Config, variables: Mapping[str, str], *, writes: bool, device: Any
) -> tuple[Prepared, Model, list[str]]:
    """The data, the model on ``device``, and what is to be said of them."""
    from ongpu.training import assemble, prepared  # noqa: PLC0415 - imports torch

    said: list[str] = []
    store = prepared.store_for(config, variables, writes=writes)
    source = prepared.Prepared(config, store=store, say=said.append)
    return source, assemble.make_model(config, source, device=device, say=said.append), said


@contextlib.contextmanager
def _named_failures(device: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Turn what CUDA raises into an error with a cause; never into a run on the CPU."""
    try:
        yield
    except RuntimeError as error:
        text = f"{type(error).__name__}: {error}"
        if "DefaultCPUAllocator" in text:
            raise devices.explain_full_host(error) from None
        if device != "cuda" or not any(word in text for word in ("CUDA", "OutOfMemoryError", "AcceleratorError")):
            raise
        raise devices.explain_failure(error, variables=variables) from error


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


def _resume(job: Job, console: Console) -> int:
    from ongpu.training import checkpoint, loop  # noqa: PLC0415 - imports torch

    def newest() -> dict[str, Any]:
        one = checkpoint.newest(job.folder.path, note=console.say)
        if one is None:
            raise UsageError(
                f"{job.folder.path} has no good checkpoint to resume from.",
                next_step="Start afresh in another --output.",
            )
        return {**dataclasses.asdict(one), "path": str(one.path)}

    said = job.ranks.share("resume", newest)
    found = checkpoint.Checkpoint(**{**said, "path": Path(said["path"])})
    if found.step >= job.config.max_steps:
        raise UsageError(
            f"The checkpoint {found.path} already has {found.step} of {job.config.max_steps} steps.",
            next_step="Give a larger --max_steps.",
        )
    loop.restore(job, found)
    job.folder.forget_after(found.step)
    console.say(f"Resuming after step {found.step} from {found.path}")
    return found.step


def _steps(job: Job, console: Console, *, done: int, set_up: SetUp, stop: StopRequest) -> dict[str, object]:
    import torch  # noqa: PLC0415 - see _torch

    from ongpu.training import loop, memory  # noqa: PLC0415 - imports torch
    from ongpu.training.events import EventLog  # noqa: PLC0415 - imports torch

    events = EventLog.open(
        job.folder.path, wanted=job.config.tensorboard and job.ranks.first, first_step=done + 1, note=console.say
    )
    series: list[loop.StepRecord] = []

    def on_step(record: loop.StepRecord) -> None:
        if not series:
            set_up.done("first step")
            console.say(str(set_up))
        series.append(record)
        job.folder.record(dataclasses.asdict(record))
        events.add(record.step, loss=record.loss, lr=record.lr, tokens_per_s=record.tokens_per_s)
        last = record.step in {1, done + 1, job.config.max_steps}
        console.step(record, total=job.config.max_steps, line=last or record.step % job.config.log_every == 0)

    too_large = ""
    try:
        loop.train(job, done=done, stop=stop, on_step=on_step)
        events.close()
    except torch.OutOfMemoryError as error:
        too_large = memory.text_of(error)
    finally:
        events.abandon()
        console.close()
    if too_large:  # only here, where the failed step's tensors are gone with the exception, can anything be measured
        found, step = memory.advice(job)
        raise BlockedError(f"{too_large}. {found}", next_step=step, cause=Cause.OUT_OF_MEMORY.value)
    steady = series[1:] or series
    seconds = sum(record.seconds for record in series)
    per_s = statistics.median(record.tokens_per_s for record in steady)
    samples = job.stream.samples(series[0].step, series[-1].step)
    median_ms = 1e3 * statistics.median(record.seconds for record in steady)
    console.say(
        f"Trained {len(series)} steps on {job.device} in {seconds:.2f} s: {samples / seconds:.1f} samples/s, "
        f"median step {median_ms:.1f} ms, {per_s:,.0f} tokens/s, "
        f"loss {series[0].loss:.4f} -> {series[-1].loss:.4f}"
    )
    return {
        "steps": series[-1].step,
        "step_recorded": job.do_step.recorded,
        "set_up_seconds": set_up.seconds,
        "set_up_parts": set_up.parts,
        "seconds": seconds,
        "samples": samples,
        "first_loss": series[0].loss,
        "last_loss": series[-1].loss,
    }
