"""Cross-entropy of the head, whole or in chunks that never hold the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ongpu.training.data import IGNORED


def head_loss(hidden: Any, head: Any, labels: Any, *, chunk_tokens: int = 0) -> Any:
    """Cross-entropy in nats, summed over the labels that are not ``IGNORED``.

    :param hidden: vectors of the last layer, (..., width).
    :param head: (vocabulary, width).
    :param chunk_tokens: tokens whose logits exist at once; 0 means all.
    """
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    if chunk_tokens and torch.is_grad_enabled():
        return ChunkedLoss.apply(flat, head, targets, chunk_tokens)
    logits = functional.linear(flat, head)
    return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


class ChunkedLoss(torch.autograd.Function):
    """The gradients are made in the forward pass, chunk by chunk, while the chunk's logits are there.

    No product is done twice: what backward has left to do is to multiply by the gradient that comes in. The idea is
    that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024).
    """

    @staticmethod
    def forward(context: Any, hidden: Any, head: Any, labels: Any, chunk_tokens: int) -> Any:
        """Return the summed loss; keep both gradients."""
        kind = torch.get_autocast_dtype(hidden.device.type) if _autocast(hidden) else hidden.dtype
        weight = head.to(kind)
        total = torch.zeros((), device=hidden.device, dtype=torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_head = torch.zeros_like(head, dtype=torch.float32)  # chunks are added up in float32
        for start in range(0, hidden.shape[0], chunk_tokens):
            part = slice(start, start + chunk_tokens)
            vectors, wanted = hidden[part].to(kind), labels[part]
            logits = (vectors @ weight.t()).float()
            real = (wanted != IGNORED).unsqueeze(1)
            index = wanted.clamp(min=0).unsqueeze(1)
            top = torch.logsumexp(logits, dim=1, keepdim=True)
            total += ((top - logits.gather(1, index)) * real).sum()
            slope = logits.sub_(top).exp_()
            slope.scatter_add_(1, index, torch.full_like(top, -1.0))
            slope = slope.mul_(real).to(kind)
            to_hidden[part] = slope @ weight
            to_head += slope.t() @ vectors
        context.head_dtype = head.dtype
        context.save_for_backward(to_hidden, to_head)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Any, Any, None, None]:
        """Scale what forward kept."""
        to_hidden, to_head = context.saved_tensors
        # the factor stays float32: torch would round it to the type of the tensor it multiplies
        scaled = (to_hidden.float() * gradients[0]).to(to_hidden.dtype)
        return scaled, (to_head * gradients[0]).to(context.head_dtype), None, None


def _autocast(hidden: Any) -> bool:
    return bool(torch.is_autocast_enabled(hidden.device.type))
