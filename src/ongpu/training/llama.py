"""The Llama family, written out: Llama, Mistral, Qwen 2 and 3, SmolLM, Gemma 1 and others of that shape.

Names and layouts of the weights are those of Hugging Face checkpoints. What a configuration asks for beyond this
(sliding windows, other rotary scalings, experts) is refused by :func:`read_shape`, and goes through transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from ongpu.training import weights
from ongpu.training.attention import Layout, attend
from ongpu.training.layers import NOT_SMALL, Embedding, NotOfThisShapeError, Sizes, fused_module, through
from ongpu.training.loss import head_loss

FAMILY: Final = {
    "gemma": ("num_key_value_heads", "head_dim", "hidden_act"),
    "llama": (),
    "mistral": ("num_key_value_heads", "sliding_window"),
    "qwen2": ("num_key_value_heads",),
    "qwen3": ("num_key_value_heads", "head_dim"),
}
"""By ``model_type``, the keys in whose place transformers has a number of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryScaling:
    """Llama 3.1's stretching of the slow rotations (``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The sizes of a model of the family."""

    vocab_size: int
    context_length: int
    width: int
    inner_width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    epsilon: float
    rotary_base: float
    rotary_scaling: RotaryScaling | None
    tied: bool
    input_bias: bool
    """Queries, keys and values have biases (Qwen 2)."""
    head_norm: bool
    """Queries and keys are normalized by head (Qwen 3)."""
    gemma: bool
    """Norms are kept as their distance from 1, tokens are scaled by the root of the width, gates are GELU (Gemma 1)."""


def read_shape(config: Mapping[str, Any]) -> LlamaShape:
    """The shape a ``config.json`` describes; :class:`NotOfThisShapeError` where it asks for more than this file has."""
    kind = config.get("model_type")
    if kind not in FAMILY:
        raise NotOfThisShapeError(f"its model_type is {kind}")
    gemma = kind == "gemma"
    plain = {"mlp_bias": False, "partial_rotary_factor": 1.0, "is_causal": True, "use_bidirectional_attention": None}
    for key, value in {**plain, "hidden_act": "gelu_pytorch_tanh" if gemma else "silu"}.items():
        if config.get(key, value) != value:
            raise NotOfThisShapeError(f"its {key} is {config[key]}")
    for key in FAMILY[kind]:
        if key not in config:
            raise NotOfThisShapeError(f"its config.json lacks {key}")
    windows = config.get("use_sliding_window", kind == "mistral")
    if windows and config.get("sliding_window"):
        raise NotOfThisShapeError(f"its attention has a sliding window of {config['sliding_window']}")
    if other := {*(config.get("layer_types") or ())} - {"full_attention"}:
        raise NotOfThisShapeError(f"it has layers of {min(other)}")
    if kind != "qwen2" and config.get("attention_bias", False):
        raise NotOfThisShapeError("its attention has biases")
    rotary = _rotary(config)
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        return LlamaShape(
            vocab_size=int(config["vocab_size"]),
            context_length=int(config["max_position_embeddings"]),
            width=width,
            inner_width=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            epsilon=float(config["rms_norm_eps"]),
            rotary_base=float(rotary["rope_theta"]),
            rotary_scaling=_rotary_scaling(rotary),
            tied=bool(config.get("tie_word_embeddings", gemma)),
            input_bias=kind == "qwen2",
            head_norm=kind == "qwen3",
            gemma=gemma,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotOfThisShapeError(f"its config.json lacks or misstates {error}") from None


def _rotary(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it says of rotary positions: transformers 5 writes rope_parameters, earlier ones the other two."""
    new, old = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    found = {"rope_theta": config.get("rope_theta") or 10_000.0, **new, **old}
    if new and old and new != old:
        raise NotOfThisShapeError("its rope_parameters are not its rope_scaling")
    if any(isinstance(value, Mapping) for value in found.values()):
        raise NotOfThisShapeError("its layers turn differently")
    if found.get("partial_rotary_factor", 1.0) != 1.0:
        raise NotOfThisShapeError(f"its partial_rotary_factor is {found['partial_rotary_factor']}")
    return found


def _rotary_scaling(found: Mapping[str, Any]) -> RotaryScaling | None:
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise NotOfThisShapeError(f"its rotary scaling is {kind}")
    return RotaryScaling(
        factor=float(found["factor"]),
        low_freq_factor=float(found["low_freq_factor"]),
        high_freq_factor=float(found["high_freq_factor"]),
        original_length=int(found["original_max_position_embeddings"]),
    )


class Norm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, width: int, shape: LlamaShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon, self.from_one = shape.epsilon, shape.gemma

    def forward(self, x: Any) -> Any:
        """The same shape and type as ``x``."""
        if self.from_one:
            weight = 1.0 + self.weight.float()
            return functional.rms_norm(x.float(), weight.shape, weight, self.epsilon).to(x.dtype)
        return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Linear(nn.Module):
    """A linear layer whose weight (outputs, inputs) is left empty."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Any) -> Any:
        """Shape (..., inputs) to (..., outputs)."""
        return functional.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share one of keys and values."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        query, key = shape.heads * shape.head_width, shape.key_heads * shape.head_width
        self.q_proj = Linear(shape.width, query, bias=shape.input_bias)
        self.k_proj = Linear(shape.width, key, bias=shape.input_bias)
        self.v_proj = Linear(shape.width, key, bias=shape.input_bias)
        self.o_proj = Linear(query, shape.width)
        if shape.head_norm:
            self.q_norm = Norm(shape.head_width, shape)
            self.k_norm = Norm(shape.head_width, shape)

    def forward(self, x: Any, turns: tuple[Any, Any], layout: Layout | None) -> Any:
        """Shape (rows, tokens, width) in and out."""
        shape = self.shape
        query = self.q_proj(x).unflatten(-1, (shape.heads, shape.head_width))
        key = self.k_proj(x).unflatten(-1, (shape.key_heads, shape.head_width))
        value = self.v_proj(x).unflatten(-1, (shape.key_heads, shape.head_width))
        if shape.head_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        return self.o_proj(attend(_turn(query, turns), _turn(key, turns), value, layout).flatten(-2))


class FeedForward(nn.Module):
    """Gated with SiLU, or for Gemma with GELU."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gemma = shape.gemma
        self.gate_proj = Linear(shape.width, shape.inner_width)
        self.up_proj = Linear(shape.width, shape.inner_width)
        self.down_proj = Linear(shape.inner_width, shape.width)

    def forward(self, x: Any) -> Any:
        """Shape (rows, tokens, width) in and out."""
        gate = self.gate_proj(x)
        gate = functional.gelu(gate, approximate="tanh") if self.gemma else functional.silu(gate)
        return self.down_proj(gate * self.up_proj(x))


class Block(nn.Module):
    """Attention, then feed-forward, each behind its norm and around the residual stream."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape)
        self.mlp = FeedForward(shape)
        self.small = NOT_SMALL

    def forward(self, x: Any, turns: tuple[Any, Any], layout: Layout | None) -> Any:
        """Shape (rows, tokens, width) in and out."""
        x = x + self.self_attn(self.input_layernorm(x), turns, layout)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Everything but the head."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape)
        self.recompute = False

    def forward(self, ids: Any, layout: Layout | None) -> Any:
        """Token ids (rows, tokens) to vectors (rows, tokens, width)."""
        positions = torch.arange(ids.shape[1], device=ids.device) if layout is None else layout.positions
        cosine, sine = self.turns(positions)
        turns = cosine[:, None, :], sine[:, None, :]
        x = self.embed_tokens(ids)
        if self.shape.gemma:
            x = x * torch.tensor(self.shape.width**0.5, dtype=x.dtype)  # rounded as transformers rounds it
        for block in self.layers:
            x = through(block, x, turns, layout, recompute=self.recompute)
        return self.norm(x)

    def turns(self, positions: Any) -> tuple[Any, Any]:
        """Cosine and sine of the angles at ``positions``, each of shape (tokens, head width / 2), float32."""
        angles = positions.float()[:, None] * rotations(self.shape, device=positions.device)
        return angles.cos(), angles.sin()


class Llama(nn.Module):
    """The model: token ids of shape (rows, tokens) in, logits of shape (rows, tokens, vocabulary) out."""

    def __init__(self, shape: LlamaShape, *, config: Mapping[str, object]) -> None:
        super().__init__()
        self.shape, self._config = shape, dict(config)
        self.fused: Any = None
        self.model = Body(shape)
        if not shape.tied:
            self.lm_head = Linear(shape.width, shape.vocab_size)

    @property
    def context_length(self) -> int:
        """The longest row the model takes."""
        return self.shape.context_length

    @property
    def head(self) -> Any:
        """The weight of the head, (vocabulary, width)."""
        return self.model.embed_tokens.weight if self.shape.tied else self.lm_head.weight

    def forward(self, ids: Any, layout: Layout | None = None) -> Any:
        """Token ids to logits."""
        return functional.linear(self.model(ids, layout), self.head)

    def loss_sum(self, ids: Any, labels: Any, layout: Layout | None = None, *, chunk_tokens: int = 0) -> Any:
        """The cross-entropy in nats, summed over the labels that are not ``IGNORED``."""
        if self.fused is not None and layout is not None:
            hidden = self.fused.llama(self.model, ids, layout)
            return self.fused.loss_sum(hidden, self.head, labels, chunk_tokens=chunk_tokens)
        return head_loss(self.model(ids, layout), self.head, labels, chunk_tokens=chunk_tokens)

    @property
    def sizes(self) -> Sizes:
        """What kernels are compiled for."""
        shape = self.shape
        return Sizes(
            width=shape.width,
            inner=shape.inner_width,
            heads=shape.heads,
            keys=shape.key_heads,
            head_width=shape.head_width,
            vocabulary=shape.vocab_size,
            layer_norm=False,
            biases=False,
            input_bias=shape.input_bias,
            gated=True,
            turned=True,
        )

    def unfused(self) -> str:
        """What of this model the kernels of ``fused.py`` do not have; empty where they have all of it."""
        if self.shape.gemma:
            return "they do not know Gemma's norms and gates"
        return "they do not know norms of heads" if self.shape.head_norm else ""

    def fuse(self) -> None:
        """Compute packed rows with the kernels of ``fused.py`` from now on."""
        self.fused = fused_module()

    def recompute_blocks(self) -> None:
        """Keep nothing inside a block for the backward pass; compute it again there."""
        self.model.recompute = True

    def compile_blocks(self) -> None:
        """Let ``torch.compile`` make each block's kernels, once for all blocks."""
        for block in self.model.layers:
            block.compile()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(folder, config=self._config, weights=self.state_dict())

    def draw(self, *, seed: int) -> None:
        """Fill the weights at random, as the family does."""
        weights.draw(self, seed=seed, std_of=lambda _: weights.INITIAL_STD, norm=0.0 if self.shape.gemma else 1.0)

    def read(self, folder: Path) -> None:
        """Fill the weights from a checkpoint."""

        def rename(name: str) -> str | None:
            if self.shape.tied and name == "lm_head.weight":
                return "model.embed_tokens.weight"
            return None if name.endswith("rotary_emb.inv_freq") else name

        weights.load(self, folder, rename=rename)


def rotations(shape: LlamaShape, *, device: Any) -> Any:
    """Radians by which a head's pairs turn from one token to the next, shape (head width / 2)."""
    half = torch.arange(0, shape.head_width, 2, device=device).float() / shape.head_width
    turn = 1.0 / shape.rotary_base**half
    scaling = shape.rotary_scaling
    if scaling is None:
        return turn
    wavelength = 2 * math.pi / turn
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = ((scaling.original_length / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return turn * (blend + (1 - blend) / scaling.factor)


def _turn(x: Any, turns: tuple[Any, Any]) -> Any:
    """Rotate each pair (first half, second half) of a head's vector by its token's angle (Su et al. 2021)."""
    cos, sin = turns
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
