"""GPT-2, written out, with the weights of Hugging Face checkpoints.

Names and layouts are theirs, so ``model.safetensors`` is a plain dump of ``state_dict()``, and transformers is not
imported on this path. Without dropout. The head is the transposed token embedding, as in every published GPT-2.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Shape:
    """The sizes of a GPT-2; ``inner_width`` is four times ``width``."""

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    end_id: int

    def to_config(self) -> dict[str, object]:
        """The ``config.json`` transformers reads."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": self.context_length,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": LAYER_NORM_EPSILON,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "initializer_range": weights.INITIAL_STD,
            "bos_token_id": self.end_id,
            "eos_token_id": self.end_id,
            "pad_token_id": self.end_id,
            "tie_word_embeddings": True,
            "dtype": "float32",
            "torch_dtype": "float32",
        }


LAYER_NORM_EPSILON: Final = 1e-5


def gpt2_shape(*, end_id: int, vocab_multiple: int = 1) -> GPT2Shape:
    """The 124M shape (Radford et al. 2019, the small model): 124,439,808 parameters where ``vocab_multiple`` is 1."""
    return GPT2Shape(
        vocab_size=_round_up(50257, vocab_multiple), context_length=1024, width=768, layers=12, heads=12, end_id=end_id
    )


def tiny_shape(*, vocab_size: int, end_id: int) -> GPT2Shape:
    """The embedded default: some 3.8 million parameters with a vocabulary of 2,048."""
    return GPT2Shape(
        vocab_size=_round_up(vocab_size, 64), context_length=512, width=256, layers=4, heads=4, end_id=end_id
    )


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


class Projection(nn.Module):
    """A linear layer with its weight stored (inputs, outputs), as GPT-2 checkpoints have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Any) -> Any:
        """Shape (rows, tokens, inputs) to (rows, tokens, outputs)."""
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Causal self-attention; ``c_attn`` makes queries, keys and values at once."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.c_attn = Projection(shape.width, 3 * shape.width)
        self.c_proj = Projection(shape.width, shape.width)

    def forward(self, x: Any, layout: Layout | None) -> Any:
        """Shape (rows, tokens, width) in and out."""
        rows, length, width = x.shape
        query, key, value = (
            part.view(rows, length, self.heads, width // self.heads) for part in self.c_attn(x).split(width, dim=2)
        )
        return self.c_proj(attend(query, key, value, layout).reshape(rows, length, width))


class FeedForward(nn.Module):
    """Four times as wide inside, with the tanh form of GELU."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.c_fc = Projection(shape.width, 4 * shape.width)
        self.c_proj = Projection(4 * shape.width, shape.width)

    def forward(self, x: Any) -> Any:
        """Shape (rows, tokens, width) in and out."""
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then feed-forward, each behind its norm and around the residual stream."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.mlp = FeedForward(shape)
        self.small = NOT_SMALL

    def forward(self, x: Any, layout: Layout | None) -> Any:
        """Shape (rows, tokens, width) in and out."""
        x = x + self.attn(self.ln_1(x), layout)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Everything but the head."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.wte = Embedding(shape.vocab_size, shape.width)
        self.wpe = Embedding(shape.context_length, shape.width)
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.recompute = False

    def forward(self, ids: Any, layout: Layout | None) -> Any:
        """Token ids (rows, tokens) to vectors (rows, tokens, width)."""
        positions = torch.arange(ids.shape[1], device=ids.device) if layout is None else layout.positions
        x = self.wte(ids) + self.wpe(positions)
        for block in self.h:
            x = through(block, x, layout, recompute=self.recompute)
        return self.ln_f(x)


class GPT2(nn.Module):
    """The model: token ids of shape (rows, tokens) in, logits of shape (rows, tokens, vocabulary) out."""

    def __init__(self, shape: GPT2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.fused: Any = None
        self.transformer = Transformer(shape)

    @property
    def context_length(self) -> int:
        """The longest row the model takes."""
        return self.shape.context_length

    def forward(self, ids: Any, layout: Layout | None = None) -> Any:
        """Token ids to logits."""
        return functional.linear(self.transformer(ids, layout), self.transformer.wte.weight)

    def loss_sum(self, ids: Any, labels: Any, layout: Layout | None = None, *, chunk_tokens: int = 0) -> Any:
        """The cross-entropy in nats, summed over the labels that are not ``IGNORED``."""
        if self.fused is not None and layout is not None:
            hidden = self.fused.gpt2(self.transformer, ids, layout)
            return self.fused.loss_sum(hidden, self.transformer.wte.weight, labels, chunk_tokens=chunk_tokens)
        hidden = self.transformer(ids, layout)
        return head_loss(hidden, self.transformer.wte.weight, labels, chunk_tokens=chunk_tokens)

    @property
    def sizes(self) -> Sizes:
        """What kernels are compiled for."""
        shape = self.shape
        return Sizes(
            width=shape.width,
            inner=4 * shape.width,
            heads=shape.heads,
            keys=shape.heads,
            head_width=shape.width // shape.heads,
            vocabulary=shape.vocab_size,
            layer_norm=True,
            biases=True,
            input_bias=True,
            gated=False,
            turned=False,
        )

    def unfused(self) -> str:
        """What of this model the kernels of ``fused.py`` do not have: nothing."""
        return ""

    def fuse(self) -> None:
        """Compute packed rows with the kernels of ``fused.py`` from now on."""
        self.fused = fused_module()

    def recompute_blocks(self) -> None:
        """Keep nothing inside a block for the backward pass; compute it again there."""
        self.transformer.recompute = True

    def compile_blocks(self) -> None:
        """Let ``torch.compile`` make each block's kernels, once for all blocks."""
        for block in self.transformer.h:
            block.compile()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(folder, config=self.shape.to_config(), weights=self.state_dict())


def build(shape: GPT2Shape, *, seed: int) -> GPT2:
    """A GPT-2 on the default device with GPT-2's random weights."""
    model = GPT2(shape)
    residual_std = weights.INITIAL_STD / math.sqrt(2 * shape.layers)
    weights.draw(
        model,
        seed=seed,
        std_of=lambda name: residual_std if name.endswith("c_proj.weight") else weights.INITIAL_STD,
    )
    return model


def read_shape(config: Mapping[str, Any]) -> GPT2Shape:
    """The shape a GPT-2 ``config.json`` describes; :class:`NotOfThisShapeError` where it asks for more."""
    for key, plain in (
        ("model_type", "gpt2"),
        ("activation_function", "gelu_new"),
        ("layer_norm_epsilon", LAYER_NORM_EPSILON),
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("tie_word_embeddings", True),
        ("is_causal", True),
    ):
        if config.get(key, plain) != plain:
            raise NotOfThisShapeError(f"its {key} is {config[key]}")
    try:
        width = int(config["n_embd"])
        if (config.get("n_inner") or 4 * width) != 4 * width:
            raise NotOfThisShapeError(f"its n_inner is {config['n_inner']}")
        return GPT2Shape(
            vocab_size=int(config["vocab_size"]),
            context_length=int(config["n_positions"]),
            width=width,
            layers=int(config["n_layer"]),
            heads=int(config["n_head"]),
            end_id=int(config.get("eos_token_id") or 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotOfThisShapeError(f"its config.json lacks or misstates {error}") from None


def read(shape: GPT2Shape, folder: Path) -> GPT2:
    """A GPT-2 with the weights of a checkpoint."""
    model = GPT2(shape)
    weights.load(model, folder, rename=_our_name)
    return model


def _our_name(name: str) -> str | None:
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None  # masks of old checkpoints
    if name == "lm_head.weight":
        return "transformer.wte.weight"
    return name if name.startswith("transformer.") else f"transformer.{name}"
