"""The networks as the GPU runs them: the same weights and the same function as ``gpt2.py`` and ``llama.py``.

What differs is how often memory is read. A residual sum, the bias before it and the norm behind it are one pass; so
are a bias and its activation; queries, keys and values come of one product; the loss leaves its slope in the place
of the logits. For packed rows in bfloat16 on CUDA.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from ongpu.training import fp8, kernels, record_attention
from ongpu.training.attention import Layout
from ongpu.training.data import IGNORED
from ongpu.training.layers import through


class AddNorm(torch.autograd.Function):
    """(x + delta + bias, its norm): see :func:`kernels.add_norm`."""

    @staticmethod
    def forward(context: Any, x: Any, delta: Any, bias: Any, weight: Any, shift: Any, epsilon: float) -> Any:
        """Both outputs, (tokens, width)."""
        total, out, mean, scale = kernels.add_norm(x, delta, bias, weight, shift, epsilon=epsilon)
        context.save_for_backward(total, weight, mean, scale)
        context.there = [one is not None for one in (delta, bias, shift)]
        context.set_materialize_grads(False)
        return (total if delta is not None else x.view_as(x)), out

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """The slopes of every input."""
        slope_total, slope = slopes
        has_delta, has_bias, has_shift = context.there
        total, weight, mean, scale = context.saved_tensors
        result, to_weight, to_shift, to_bias = kernels.add_norm_backward(
            total,
            weight,
            mean,
            scale,
            slope.contiguous(),
            None if slope_total is None else slope_total.contiguous(),
            has_bias=has_bias,
        )
        return (
            result,
            result if has_delta else None,
            to_bias if has_bias else None,
            to_weight,
            to_shift if has_shift else None,
            None,
        )


class BiasGelu(torch.autograd.Function):
    """GELU of product + bias."""

    @staticmethod
    def forward(context: Any, product: Any, bias: Any) -> Any:
        """Shape (tokens, width)."""
        context.save_for_backward(product, bias)
        return kernels.bias_gelu(product, bias)

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """The slopes of both."""
        product, bias = context.saved_tensors
        return kernels.bias_gelu_backward(product, bias, slopes[0])


class Gated(torch.autograd.Function):
    """silu(gate) * value, of both side by side."""

    @staticmethod
    def forward(context: Any, both: Any) -> Any:
        """(tokens, 2 * width) to (tokens, width)."""
        context.save_for_backward(both)
        return kernels.gated(both)

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """The slope of both."""
        (both,) = context.saved_tensors
        return kernels.gated_backward(both, slopes[0])


class SelfAttention(torch.autograd.Function):
    """Queries, keys and values of one product, turned where asked, and causal attention within each record."""

    @staticmethod
    def forward(
        context: Any,
        x: Any,
        weight: Any,
        bias: Any,
        layout: Layout,
        turns: Any,
        heads: int,
        keys: int,
        small: fp8.Weight | None,
    ) -> Any:
        """(tokens, inputs) to (tokens, heads * head width); ``weight`` is (inputs, (heads + 2 keys) * head width)."""
        if small is None:
            packed = x @ weight if bias is None else torch.addmm(bias, x, weight)
            kept = (x, weight)
        else:
            packed, kept = small.multiply(x, weight, bias)
        if turns is not None:
            kernels.turn_(packed, turns, heads=heads + keys)
        records = {"longest": layout.longest, "heads": heads, "keys": keys}
        mix = record_attention.forward if layout.longest <= record_attention.LONGEST else _flash_forward
        mixed, *state = mix(packed, layout.boundaries, **records)
        context.save_for_backward(*kept, packed, layout.boundaries, mixed, *state)
        context.turns, context.records, context.has_bias, context.small = turns, records, bias is not None, small
        return mixed

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """The slopes of x, weight and bias."""
        one, other, packed, boundaries, mixed, *state = context.saved_tensors
        records = context.records
        unmix = record_attention.backward if records["longest"] <= record_attention.LONGEST else _flash_backward
        slope = unmix(packed, boundaries, mixed, slopes[0].contiguous(), *state, **records)
        if context.turns is not None:
            kernels.turn_(slope, context.turns, heads=records["heads"] + records["keys"], back=True)
        to_bias = kernels.column_sum(slope) if context.has_bias else None
        if context.small is None:
            x, weight = one, other
            # in the order in which the weight lies in memory, or its parts would be copied
            to_weight = x.t() @ slope if weight.is_contiguous() else (slope.t() @ x).t()
            to_x = slope @ weight.t()
        else:
            to_x, to_weight = context.small.slopes(slope, one, other)
        return to_x, to_weight, to_bias, None, None, None, None, None


# as the operators under torch.nn.attention.varlen want them: dropout, causal; return of a debug mask
_CAUSAL_WITHOUT_DROPOUT: Final = (0.0, True)
_NO_DEBUG_MASK: Final = False


def _flash_forward(packed: Any, boundaries: Any, *, longest: int, heads: int, keys: int) -> tuple[Any, ...]:
    limits = (boundaries, boundaries, longest, longest)
    mixed, log_sums, state, unused, _ = torch.ops.aten._flash_attention_forward(
        *_heads(packed, heads, keys), *limits, *_CAUSAL_WITHOUT_DROPOUT, _NO_DEBUG_MASK
    )
    return mixed.flatten(1), log_sums, state, unused


def _flash_backward(
    packed: Any,
    boundaries: Any,
    mixed: Any,
    slope: Any,
    log_sums: Any,
    state: Any,
    unused: Any,
    *,
    longest: int,
    heads: int,
    keys: int,
) -> Any:
    limits = (boundaries, boundaries, longest, longest)
    rows = (len(packed), heads, -1)
    parts = torch.ops.aten._flash_attention_backward(
        slope.view(rows),
        *_heads(packed, heads, keys),
        mixed.view(rows),
        log_sums,
        *limits,
        *_CAUSAL_WITHOUT_DROPOUT,
        state,
        unused,
    )
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _heads(packed: Any, heads: int, keys: int) -> list[Any]:
    width = packed.shape[1] // (heads + 2 * keys)
    parts = packed.split([heads * width, keys * width, keys * width], dim=1)
    return [part.unflatten(1, (-1, width)) for part in parts]


class Stack(torch.autograd.Function):
    """Weights of shape (outputs, inputs) as one, without a copy where they lie one behind the other in memory."""

    @staticmethod
    def forward(context: Any, *weights: Any) -> Any:
        """Shape (all outputs, inputs)."""
        context.rows = [weight.shape[0] for weight in weights]
        first, at = weights[0], weights[0].data_ptr()
        for weight in weights:
            if weight.data_ptr() != at:
                return torch.cat(weights)
            at += weight.numel() * weight.element_size()
        return first.detach().as_strided((sum(context.rows), first.shape[1]), (first.shape[1], 1))

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """Each weight's rows."""
        return slopes[0].split(context.rows)


def _times(x: Any, weight: Any, small: fp8.Weight | None) -> Any:
    """``x @ weight``, (tokens, inputs) by (inputs, outputs); in float8 where there is a ``small`` one."""
    return x @ weight if small is None else fp8.Product.apply(x, weight, small)


def gpt2(body: Any, ids: Any, layout: Layout) -> Any:
    """What ``gpt2.Transformer`` computes: token ids (1, tokens) to vectors (1, tokens, width)."""
    x, delta, bias = body.wte(ids[0]) + body.wpe(layout.positions), None, None
    for block in body.h:
        x, delta, bias = through(_gpt2_block, block, x, delta, bias, layout, recompute=body.recompute)
    return _add_norm(x, delta, bias, body.ln_f)[1][None]


def _gpt2_block(block: Any, x: Any, delta: Any, bias: Any, layout: Layout) -> tuple[Any, Any, Any]:
    """The block's inputs are a sum that was not added up, and so are its results."""
    attention, mlp, heads = block.attn, block.mlp, block.attn.heads
    before, behind, up, down = block.small
    x, y = _add_norm(x, delta, bias, block.ln_1)
    projection = attention.c_attn
    mixed = SelfAttention.apply(y, projection.weight, projection.bias, layout, None, heads, heads, before)
    x, y = _add_norm(x, _times(mixed, attention.c_proj.weight, behind), attention.c_proj.bias, block.ln_2)
    inner = BiasGelu.apply(_times(y, mlp.c_fc.weight, up), mlp.c_fc.bias)
    return x, _times(inner, mlp.c_proj.weight, down), mlp.c_proj.bias


def _add_norm(x: Any, delta: Any, bias: Any, norm: Any) -> Any:
    return AddNorm.apply(x, delta, bias, norm.weight, norm.bias, norm.eps)


def llama(body: Any, ids: Any, layout: Layout) -> Any:
    """What ``llama.Body`` computes: token ids (1, tokens) to vectors (1, tokens, width)."""
    turns = body.turns(layout.positions)
    x, delta = body.embed_tokens(ids[0]), None
    for block in body.layers:
        x, delta = through(_llama_block, block, x, delta, layout, turns, recompute=body.recompute)
    return _add_rms_norm(x, delta, body.norm)[1][None]


def _llama_block(block: Any, x: Any, delta: Any, layout: Layout, turns: Any) -> tuple[Any, Any]:
    attention, mlp, shape = block.self_attn, block.mlp, block.self_attn.shape
    before, behind, up, down = block.small
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    x, y = _add_rms_norm(x, delta, block.input_layernorm)
    weight = Stack.apply(*(one.weight for one in projections)).t()
    bias = torch.cat([one.bias for one in projections]) if shape.input_bias else None
    mixed = SelfAttention.apply(y, weight, bias, layout, turns, shape.heads, shape.key_heads, before)
    x, y = _add_rms_norm(x, _times(mixed, attention.o_proj.weight.t(), behind), block.post_attention_layernorm)
    both = _times(y, Stack.apply(mlp.gate_proj.weight, mlp.up_proj.weight).t(), up)
    return x, _times(Gated.apply(both), mlp.down_proj.weight.t(), down)


def _add_rms_norm(x: Any, delta: Any, norm: Any) -> Any:
    return AddNorm.apply(x, delta, None, norm.weight, None, norm.epsilon)


def loss_sum(hidden: Any, head: Any, labels: Any, *, chunk_tokens: int) -> Any:
    """The cross-entropy in nats, summed over the labels that are not ``IGNORED``; see ``loss.head_loss``."""
    return HeadLoss.apply(hidden.reshape(-1, hidden.shape[-1]), head, labels.reshape(-1), chunk_tokens)


class HeadLoss(torch.autograd.Function):
    """As ``loss.ChunkedLoss``: both gradients are made in the forward pass, while the logits of a chunk are there."""

    @staticmethod
    def forward(context: Any, hidden: Any, head: Any, labels: Any, chunk_tokens: int) -> Any:
        """The summed loss, float32."""
        losses, to_hidden, to_head = [], torch.empty_like(hidden), None
        chunk = chunk_tokens or len(hidden)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = hidden[part] @ head.t()
            losses.append(kernels.cross_entropy_(logits, labels[part], ignored=IGNORED))
            torch.mm(logits, head, out=to_hidden[part])  # the logits are slopes now
            if chunk >= len(hidden):
                to_head = logits.t() @ hidden
            else:  # chunks are added up in float32
                added = torch.mm(logits.t(), hidden[part], out_dtype=torch.float32)
                to_head = added if to_head is None else to_head.add_(added)
        context.head_type = head.dtype
        context.save_for_backward(to_hidden, to_head)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """Scale what forward kept, in its place: this can be done once."""
        to_hidden, to_head = context.saved_tensors
        kernels.scale_(to_hidden, slopes[0])
        kernels.scale_(to_head, slopes[0])
        return to_hidden, to_head.to(context.head_type), None, None
