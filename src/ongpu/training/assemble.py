"""From a configuration to a job: data, model, optimizer, and the way a step is done."""

from __future__ import annotations

import dataclasses
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ongpu.errors import UsageError, WorkError
from ongpu.training import gpt2, hub
from ongpu.training.batches import HeldOut, Stream
from ongpu.training.config import Config
from ongpu.training.data import BytePairTokenizer, Tokenizer, Tokens
from ongpu.training.folder import open_folder
from ongpu.training.layers import NotOfThisShapeError
from ongpu.training.loop import Job
from ongpu.training.optimizer import AdamW
from ongpu.training.output import RunFolder
from ongpu.training.policy import Policy
from ongpu.training.precision import MasterWeights, Weights
from ongpu.training.prepared import Prepared
from ongpu.training.ranks import Alone
from ongpu.training.reduce import ONE_RANK, ManyRanks, OneRank
from ongpu.training.rehearse import Kept, rehearse
from ongpu.training.step import EagerStep, RecordedStep, Step
from ongpu.training.store import Store, folder_of

# settings that change where a run writes or how fast it goes, not the numbers it computes
_NOT_COMPUTED = frozenset(
    {"output", "device", "dataset", "cache_tokens", "log_every", "save_every", "keep_checkpoints"}
) | frozenset({"tensorboard", "eval_every", "cuda_graph", "kernels", "recompute_blocks", "parallel"})
_RECORDS: Final = frozenset({"batch_size", "grad_accumulation_steps"})
"""What counts of these is their product with the number of ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model with its tokenizer; ``native`` says that it is one of ours."""

    network: Any
    tokenizer: Tokenizer
    native: bool

    def save(self, folder: Path, config: Config) -> None:
        """Write what transformers loads: the model, or the adapters that were trained beside it."""
        if self.native and config.lora_rank:
            from ongpu.training import lora  # noqa: PLC0415 - only runs that ask for it

            lora.save(self.network, folder, config)
        else:
            self.network.save(folder)
        self.tokenizer.save(folder)


def make_model(config: Config, source: Prepared, *, device: Any, say: Callable[[str], None]) -> Model:
    """The model and tokenizer the configuration names; ``say`` is told where transformers has to open it.

    A model of ours is made on ``device``, one of transformers on the CPU.

    :raises UsageError: there is no such model, or its files disagree.
    """

    def new_tokenizer(most: int) -> BytePairTokenizer:
        return source.tokenizer(min(config.vocab_size, most), say=say)

    if config.model in {"tiny", "gpt2"}:
        tokenizer = new_tokenizer(config.vocab_size)
        if config.model == "gpt2":
            shape = gpt2.gpt2_shape(end_id=tokenizer.end_id, vocab_multiple=config.vocab_multiple)
        else:
            shape = gpt2.tiny_shape(vocab_size=tokenizer.size, end_id=tokenizer.end_id)
        with torch.device(device):
            return Model(network=gpt2.build(shape, seed=config.seed), tokenizer=tokenizer, native=True)
    folder = Path(config.model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(
            f"The model folder {folder} has no config.json.", next_step="Give a folder whose files are whole."
        )
    if folder.is_dir():
        try:
            network, found = open_folder(
                folder,
                random_weights=config.weights == "random",
                seed=config.seed,
                device=device,
                new_tokenizer=new_tokenizer,
            )
            return Model(network=network, tokenizer=found, native=True)
        except NotOfThisShapeError as error:
            say(f"Model: transformers opens {folder}, for {error}.")
    if config.weights == "random":
        raise UsageError(
            f"The shape of {config.model} cannot be taken without its weights.",
            next_step="Set weights to pretrained, or model to tiny, gpt2 or a folder of the GPT-2 or Llama families.",
        )
    if not folder.is_dir() and (folder.exists() or config.model.startswith((".", "/", "~", "\\"))):
        raise UsageError(
            f"There is no model folder {config.model}.",
            next_step="Set model to tiny, gpt2, a folder with config.json, weights and tokenizer, or a hub id.",
        )
    wrapped, loaded = hub.load(config.model, say=say)
    return Model(network=wrapped, tokenizer=loaded, native=False)


def make_examples(source: Prepared, model: Model, config: Config, *, say: Callable[[str], None]) -> Tokens:
    """The records as tokens; ``say`` is told what was cut, skipped or left out.

    :raises UsageError: nothing is left to learn from.
    """
    length = min(config.max_seq_length, model.network.context_length)
    if length < config.max_seq_length:
        say(f"Data: the model takes {length} tokens at most, so max_seq_length {config.max_seq_length} becomes that.")
    made = source.tokens(model.tokenizer, max_length=length, completion_only=config.loss_on == "completion", say=say)
    usable = made.pick(made.targets > 0)
    cut, cut_tokens = made.cut_records, int(made.cut.sum())
    say(f"Data: {source.name}, {source.count} records, sha256 {source.sha256}")
    say(f"Data: {cut} of {len(made)} records are longer than {length} tokens and were cut, {cut_tokens:,} tokens.")
    if source.skipped:
        first = source.skipped[0]
        say(f"Data: {len(source.skipped)} bad lines skipped; the first is line {first.number}: {first.reason}.")
    if len(usable) < len(made):
        say(f"Data: {len(made) - len(usable)} records left out: their prompt alone fills the {length} tokens.")
    if not len(usable):
        raise UsageError(
            f"No record has anything to learn within {length} tokens.", next_step="Raise --max_seq_length."
        )
    return usable


def kept_kernels(
    config: Config,
    model: Model,
    examples: Tokens,
    *,
    capability: tuple[int, int],
    variables: Mapping[str, str],
    ranks: Alone,
    say: Callable[[str], None],
) -> Kept:
    """Where the kernels of such a run are found again; ``model`` is one of ours."""
    folder = folder_of(variables, "kernels")
    return Kept(
        Store(folder=folder, writes=ranks.local_rank == 0) if folder else None,
        model.network.sizes,
        longest=int(examples.lengths.max()),
        fp8=config.fp8,
        capability=capability,
        say=say,
    )


def split(examples: Tokens, config: Config) -> tuple[Tokens, Tokens | None]:
    """Examples to train on and examples held out, by the seed alone.

    :raises UsageError: a part would be empty.
    """
    if not config.eval_fraction:
        return examples, None
    count = max(1, round(len(examples) * config.eval_fraction))
    if count >= len(examples):
        raise UsageError(
            f"{len(examples)} records cannot be split for an evaluation.", next_step="Set eval_fraction to 0."
        )
    indices = list(range(len(examples)))
    random.Random(f"{config.seed}/held out").shuffle(indices)
    apart = torch.zeros(len(examples), dtype=torch.bool)
    apart[torch.tensor(indices[:count])] = True
    return examples.pick(~apart), examples.pick(apart)


def make_job(
    config: Config,
    *,
    device: str,
    model: Model,
    examples: Tokens,
    data_sha256: str,
    policy: Policy,
    kept: Kept | None,
    folder: RunFolder,
    ranks: Alone,
    warnings: Sequence[str],
    say: Callable[[str], None],
    on_evaluation: Callable[[int, float], None],
) -> Job:
    """Everything the loop needs, on its device. ``kept``: where kernels of our own are found again, or kept."""
    taught, apart = split(examples, config)
    _refuse_batch_tokens(config, taught, policy=policy)
    network, fill = model.network, model.tokenizer.end_id
    network.train()
    weights, optimizer = _weights(network, config, device=device, native=model.native, policy=policy, ranks=ranks)
    stream = Stream(
        taught,
        seed=config.seed,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        micro_steps=config.grad_accumulation_steps,
        max_steps=config.max_steps,
        packed=policy.packing.taken,
        fill=fill,
        pinned=device == "cuda",
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    if policy.kernels.taken and not (kept and kept.load()):
        problem = _rehearse(network, optimizer, stream, device=device, fp8=policy.fp8.taken)
        if problem and (config.kernels == "always" or policy.fp8.taken or ranks.world_size > 1):
            leave = "Leave fp8 out and set" if policy.fp8.taken else "Set"
            raise WorkError(
                f"The kernels of our own could not be compiled: {problem}.",
                next_step=f"{leave} kernels: never; the plain operations compute the same.",
            )
        if problem:
            say(f"Kernels of our own could not be compiled ({problem}), so this run takes the plain operations.")
            weights.restore()
            network.fused = None
            policy = policy.without_kernels(f"they could not be compiled: {problem}")
            weights, optimizer = _weights(network, config, device=device, native=True, policy=policy, ranks=ranks)
        elif kept:
            kept.keep()
    if policy.recompute.taken:
        network.recompute_blocks()
    if policy.compile.taken:
        network.compile_blocks()
    reduction = _reduction(weights, ranks)
    do_step: Step = EagerStep(weights, optimizer, config=config, device=device, reduction=reduction)
    if policy.cuda_graph.taken:
        do_step = RecordedStep(weights, optimizer, config=config, device=device, note=say, reduction=reduction)
    return Job(
        config=config,
        device=device,
        weights=weights,
        optimizer=optimizer,
        do_step=do_step,
        stream=stream,
        held_out=HeldOut(apart, batch_size=config.batch_size, fill=fill) if apart is not None else None,
        folder=folder,
        settings={
            **_computed(config, policy),
            "records_a_step": _batches_a_step(config, ranks) * (1 if config.batch_tokens else config.batch_size),
            "data_sha256": data_sha256,
            "tokens_sha256": examples.digest(),
        },
        policy=policy,
        ranks=ranks,
        warnings=warnings,
        on_evaluation=on_evaluation,
    )


def _rehearse(network: Any, optimizer: AdamW, stream: Stream, *, device: str, fp8: bool) -> str:
    """Compile the kernels; what went wrong with Triton or the C compiler, empty if nothing."""
    from triton.errors import TritonError  # noqa: PLC0415 - only a run that compiles pays its import

    layout = stream.step(1)[0].to(device).layout
    assert layout is not None  # our kernels are taken for packed rows
    sizes: dict[str, Any] = {"tokens": stream.row_tokens, "longest": stream.longest, "fp8": fp8}
    try:
        rehearse(network.sizes, optimizer, boundaries=layout.boundaries, **sizes)
    except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _batches_a_step(config: Config, ranks: Alone) -> int:
    return config.grad_accumulation_steps * ranks.world_size


def _refuse_batch_tokens(config: Config, examples: Tokens, *, policy: Policy) -> None:
    if not config.batch_tokens:
        return
    if not policy.packing.taken:
        raise UsageError(
            f"batch_tokens counts the tokens of packed rows, but packing: {policy.packing.reason}.",
            next_step="Set packing: true, or go by batch_size with batch_tokens: 0.",
        )
    longest = int(examples.lengths.max())
    if longest > config.batch_tokens:
        raise UsageError(
            f"The longest record has {longest} tokens, more than batch_tokens {config.batch_tokens}.",
            next_step=f"Raise batch_tokens, or cut records with max_seq_length: {config.batch_tokens}.",
        )


def _weights(
    network: Any, config: Config, *, device: str, native: bool, policy: Policy, ranks: Alone
) -> tuple[Weights, AdamW]:
    settings: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "betas": (config.adam_beta1, config.adam_beta2),
        "epsilon": config.adam_epsilon,
    }
    half = config.precision == "bfloat16"
    weights: Weights
    if policy.sharded.taken:
        from ongpu.training.sharded import ShardedWeights  # noqa: PLC0415 - FSDP2 takes a second to import

        weights = ShardedWeights(network, device=device, world_size=ranks.world_size, half=half)
        return weights, AdamW(weights.masters.values(), **settings)
    network.to(device)
    if policy.kernels.taken:
        from ongpu.training.flat import FlatAdamW, FlatWeights  # noqa: PLC0415 - only a run that takes it pays its import

        network.fuse()
        flat = FlatWeights(network, device=device)
        if policy.fp8.taken:
            from ongpu.training import fp8, fp8_cast  # noqa: PLC0415 - only a run that takes it pays its import

            flat.small = fp8.attach(network, fp8_cast.cast)
        return flat, FlatAdamW(flat, **settings)
    weights = (
        MasterWeights(network, device=device) if half and native else Weights(network, device=device, autocast=half)
    )
    return weights, AdamW(weights.masters.values(), **settings)


def _reduction(weights: Weights, ranks: Alone) -> OneRank:
    if ranks.world_size == 1:
        return ONE_RANK
    if weights.in_parts:
        from ongpu.training.sharded import ShardedRanks  # noqa: PLC0415 - see _weights

        return ShardedRanks(ranks.world_size)
    return ManyRanks(weights)


def _computed(config: Config, policy: Policy) -> dict[str, object]:
    """The settings that decide the numbers: a resumed run must have the same."""
    free = set(_NOT_COMPUTED | _RECORDS)
    if config.lr_schedule == "constant" and not policy.packing.taken:  # a packed row's length comes from the whole run
        free.add("max_steps")
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in free}
