"""Which speed-ups a run takes, each with its reason: printed by ``--explain``, and decided before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ongpu.errors import UsageError
from ongpu.training.config import Config

GRAPH_FROM_STEPS: Final = 10
"""Recording costs about three steps; below this it is not earned back with a margin."""
GRAPH_MICRO_STEPS: Final = 8
"""A recorded step holds every micro-step, and its size grows with them."""
KERNELS_FROM_STEPS: Final = 300
"""Importing Triton and compiling its kernels took 2 to 3 s on one H100 (2026-11-22). They saved 2.5 ms of a step of 4
records and 36 ms of one of 32,768 tokens, both GPT-2 124M."""
COMPILE_FROM_STEPS: Final = 2000
"""Compiling cold took about 30 s on one H100 for GPT-2 124M (2026-11-22), where it saved 1.7 ms of a step of
4 records and more of larger ones."""

BYTES_A_WEIGHT: Final = 20
"""bfloat16 with float32 masters: weight and gradient 2 + 2, master and its gradient 4 + 4, AdamW 8."""
ROOM_FOR_WEIGHTS: Final = 0.6
"""The part of a GPU's memory they may take; the rest is for activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Several ranks: the model's weights, and the memory of one GPU (``None`` on CPUs)."""

    weights: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One decision and why."""

    what: str
    taken: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {'yes' if self.taken else 'no'}, {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a run does beyond the plain loop."""

    cuda_graph: Choice
    kernels: Choice
    fp8: Choice
    compile: Choice
    packing: Choice
    loss_chunks: Choice
    recompute: Choice
    sharded: Choice
    unheeded: tuple[Choice, ...] = ()
    """What the configuration insists on and the run cannot do."""

    def without_kernels(self, reason: str) -> Policy:
        """The same without kernels of our own, where they were chosen and could not be had."""
        return dataclasses.replace(self, kernels=dataclasses.replace(self.kernels, taken=False, reason=reason))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All of them, in the order in which they are printed."""
        return (
            self.packing,
            self.loss_chunks,
            self.recompute,
            self.sharded,
            self.kernels,
            self.fp8,
            self.cuda_graph,
            self.compile,
        )

    @property
    def said(self) -> tuple[Choice, ...]:
        """What is said without ``--explain``: what was insisted on in vain, and arithmetic that rounds more."""
        return (*self.unheeded, *([self.fp8] if self.fp8.taken else []))


def choose(
    config: Config,
    *,
    device: str,
    native: bool,
    unfused: str = "",
    without_float8: str = "",
    kept: Callable[[], bool] = lambda: False,
    team: Team | None = None,
) -> Policy:
    """Decide from the configuration, the device, whether the model is one of ours, and who else trains.

    ``unfused`` says why the kernels of ``fused.py`` cannot run it, and is empty where they can; ``without_float8``
    the same of ``fp8.py``. ``kept`` says whether an earlier run left those kernels compiled; it is asked where that
    decides.

    :raises UsageError: float8 was asked for and cannot be had.
    """
    sharded = _sharded(config, team=team, native=native)
    if sharded.taken:
        unfused = "they need whole weights, and these are in parts"
    kernels = _kernels(config, device=device, native=native, unfused=unfused, kept=kept)
    fp8 = _fp8(config, kernels=kernels, missing=without_float8)
    cuda_graph = _cuda_graph(config, device=device, native=native, several=team is not None)
    compiled = _compile(config, device=device, native=native, fused=kernels.taken)
    packing = _asked("packing", wanted=config.packing, otherwise="one record a row", native=native)
    loss_chunks = _asked(
        "loss in chunks", wanted=config.loss_chunk_tokens > 0, otherwise="all its logits at once", native=native
    )
    recompute = _asked(
        "blocks computed twice", wanted=config.recompute_blocks, otherwise="kept activations", native=native
    )
    insisted = {
        kernels: config.kernels == "always",
        cuda_graph: config.cuda_graph == "always",
        compiled: config.compile == "always",
        packing: config.packing,
        loss_chunks: config.loss_chunk_tokens > 0,
        recompute: config.recompute_blocks,
        sharded: config.parallel == "fsdp",
    }
    return Policy(
        sharded=sharded,
        cuda_graph=cuda_graph,
        kernels=kernels,
        fp8=fp8,
        compile=compiled,
        packing=packing,
        loss_chunks=loss_chunks,
        recompute=recompute,
        unheeded=tuple(choice for choice, wanted in insisted.items() if wanted and not choice.taken),
    )


def _asked(what: str, *, wanted: bool, otherwise: str, native: bool) -> Choice:
    if not wanted:
        return Choice(what=what, taken=False, reason="the configuration does not ask for it")
    reason = "the configuration asks for it" if native else f"a model of transformers gets {otherwise}"
    return Choice(what=what, taken=native, reason=reason)


def _sharded(config: Config, *, team: Team | None, native: bool) -> Choice:
    def choice(reason: str, *, taken: bool = False) -> Choice:
        return Choice(what="weights in parts (FSDP2)", taken=taken, reason=reason)

    if team is None:
        return choice("this process trains alone")
    if not native:
        return choice("a model of transformers is kept whole on every rank")
    if config.parallel != "auto":
        return choice(f"the configuration says {config.parallel}", taken=config.parallel == "fsdp")
    if team.memory_bytes is None:
        return choice("the device is not a GPU")
    needed, room = team.weights * BYTES_A_WEIGHT, int(team.memory_bytes * ROOM_FOR_WEIGHTS)
    sizes = f"weights, gradients and AdamW take {needed / 2**30:.1f} GiB of {team.memory_bytes / 2**30:.1f} GiB"
    return choice(sizes, taken=needed > room)


def _cuda_graph(config: Config, *, device: str, native: bool, several: bool) -> Choice:
    def choice(reason: str, *, taken: bool = False) -> Choice:
        return Choice(what="step recorded as a CUDA graph", taken=taken, reason=reason)

    if device != "cuda":
        return choice("the device is not a GPU")
    if config.cuda_graph == "never":
        return choice("the configuration says never")
    if not native:
        return choice("a model of transformers may decide things on the host, which a recording cannot repeat")
    if several and config.cuda_graph != "always":
        return choice("several ranks: their collectives are launched, not recorded, unless the configuration insists")
    if config.grad_accumulation_steps > GRAPH_MICRO_STEPS:
        return choice(f"{config.grad_accumulation_steps} micro-steps are more than {GRAPH_MICRO_STEPS}")
    if config.cuda_graph == "always":
        return choice("the configuration says always", taken=True)
    if config.max_steps < GRAPH_FROM_STEPS:
        return choice(f"{config.max_steps} steps are fewer than {GRAPH_FROM_STEPS}: recording costs about three")
    return choice("shapes are the same in every step, and launching a step costs more than replaying it", taken=True)


def _kernels(config: Config, *, device: str, native: bool, unfused: str, kept: Callable[[], bool]) -> Choice:
    def choice(reason: str, *, taken: bool = False) -> Choice:
        return Choice(what="kernels of our own", taken=taken, reason=reason)

    if device != "cuda":
        return choice("the device is not a GPU")
    if config.kernels == "never":
        return choice("the configuration says never")
    if not native:
        return choice("a model of transformers is run as it is")
    if config.precision != "bfloat16":
        return choice(f"they are for bfloat16, and this is {config.precision}")
    if not config.packing:
        return choice("they are for packed rows")
    if config.compile == "always":
        return choice("the configuration wants the blocks compiled")
    if unfused:
        return choice(unfused)
    if config.kernels == "always":
        return choice("the configuration says always", taken=True)
    if config.fp8:
        return choice("products in float8 need them", taken=True)
    if config.max_steps < KERNELS_FROM_STEPS:
        if kept():
            return choice("an earlier run left them compiled", taken=True)
        return choice(f"{config.max_steps} steps are fewer than {KERNELS_FROM_STEPS}, and compiling them takes seconds")
    return choice("memory is read once where the plain operations read it two to ten times", taken=True)


def _fp8(config: Config, *, kernels: Choice, missing: str) -> Choice:
    what = "products of the blocks in float8"
    if not config.fp8:
        return Choice(what=what, taken=False, reason="the configuration does not ask for it, and it rounds more")
    reason = f"it goes with the kernels of our own, and {kernels.reason}" if not kernels.taken else missing
    if reason:
        raise UsageError(
            f"fp8 was asked for and cannot be had: {reason}.",
            next_step="Leave fp8 out; or give it packing: true, precision: bfloat16, a model of the GPT-2 or Llama "
            "family and an NVIDIA GPU of compute capability 8.9 or later with Triton.",
        )
    return Choice(what=what, taken=True, reason="the configuration asks for it; all else stays bfloat16 and float32")


def _compile(config: Config, *, device: str, native: bool, fused: bool) -> Choice:
    def choice(reason: str, *, taken: bool = False) -> Choice:
        return Choice(what="blocks compiled", taken=taken, reason=reason)

    if config.compile == "never":
        return choice("the configuration says never")
    if not native:
        return choice("a model of transformers is run as it is")
    if config.compile == "always":
        return choice("the configuration says always", taken=True)
    if device != "cuda":
        return choice("the device is not a GPU")
    if fused:
        return choice("kernels of our own do what it would do")
    if config.max_steps < COMPILE_FROM_STEPS:
        return choice(
            f"{config.max_steps} steps are fewer than {COMPILE_FROM_STEPS}: compiling cold takes half a minute"
        )
    return choice(f"{config.max_steps} steps earn it back", taken=True)
