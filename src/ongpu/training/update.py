"""AdamW over flat buffers as two Triton kernels: the norm of all gradients, and the update.

A gradient stays where the backward pass left it and is found by its address; weights and state lie in flat buffers, of
which no block holds two tensors. ``flat.py`` has the optimizer that calls them.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator, index"

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from ongpu.training.binaries import kernel, part

if TYPE_CHECKING:
    import triton.language as tl

BLOCK: Final = 4096
"""Elements of a flat buffer that one program of the optimizer's kernels takes; no block holds two tensors."""


@part
def _gradient(pointers, owner, start, size, lane, KIND: tl.constexpr):
    base = tl.load(pointers + owner).to(tl.pointer_type(KIND))
    place = start.to(tl.int64) * 4096 + lane
    return tl.load(base + place, mask=place < size, other=0.0).to(tl.float32)


@kernel
def _squares_kernel(pointers, owners, starts, sizes, partial, KIND: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    owner = tl.load(owners + program)
    gradient = _gradient(pointers, owner, tl.load(starts + program), tl.load(sizes + owner), tl.arange(0, BLOCK), KIND)
    tl.store(partial + program, tl.sum(gradient * gradient, 0))


@kernel
def _adamw_kernel(
    pointers, owners, starts, sizes, decays, weights, average, square, copies, step_count, norm, withhold,
    learning_rate, log_beta1, log_beta2, beta1, beta2, epsilon, max_norm, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(withhold) == 0.0:
        program = tl.program_id(0)
        lane = tl.arange(0, BLOCK)
        owner = tl.load(owners + program)
        gradient = _gradient(pointers, owner, tl.load(starts + program), tl.load(sizes + owner), lane, KIND)
        gradient *= tl.minimum(1.0, max_norm / (tl.load(norm) + 1e-6))
        steps = tl.load(step_count).to(tl.float64)
        correction1 = (1.0 - tl.exp(steps * log_beta1)).to(tl.float32)
        correction2 = (1.0 - tl.exp(steps * log_beta2)).to(tl.float32)
        at = program.to(tl.int64) * BLOCK + lane
        weight = tl.load(weights + at)
        weight -= learning_rate * tl.load(decays + owner) * weight
        first = tl.load(average + at)
        first += (gradient - first) * (1.0 - beta1)
        second = tl.load(square + at) * beta2 + (1.0 - beta2) * gradient * gradient
        weight -= (learning_rate / correction1) * first / (tl.sqrt(second) / tl.sqrt(correction2) + epsilon)
        tl.store(average + at, first)
        tl.store(square + at, second)
        tl.store(weights + at, weight)
        tl.store(copies + at, weight.to(copies.dtype.element_ty))


class Blocks:
    """Which tensor each block of a flat buffer belongs to, on the device, and where the tensors' gradients are."""

    def __init__(self, sizes: list[int], decays: list[float], *, device: Any) -> None:
        counts = torch.tensor([-(-size // BLOCK) for size in sizes])
        owners = torch.repeat_interleave(torch.arange(len(sizes)), counts)
        starts = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        self.count = len(owners)
        self._owners, self._starts = owners.int().to(device), starts.int().to(device)
        self._sizes = torch.tensor(sizes).to(device)
        self._decays = torch.tensor(decays, dtype=torch.float32).to(device)
        self._pointers = torch.zeros(len(sizes), dtype=torch.int64, device=device)
        self._recorded = torch.zeros(len(sizes), dtype=torch.int64, pin_memory=torch.cuda.is_available())
        self._known: list[int] = []
        self._kind: Any = None

    def take(self, gradients: list[Any]) -> None:
        """Note where the gradients are; called while a step is recorded, the recording notes it at each replay."""
        places = [gradient.data_ptr() for gradient in gradients]
        self._kind = gradients[0].dtype
        if torch.cuda.is_current_stream_capturing():
            self._recorded.copy_(torch.tensor(places))
            self._pointers.copy_(self._recorded, non_blocking=True)
            self._known = []
        elif places != self._known:
            self._pointers.copy_(torch.tensor(places), non_blocking=True)
            self._known = places

    def norm(self) -> Any:
        """The norm of all gradients, float32."""
        partial = torch.empty(self.count, dtype=torch.float32, device=self._sizes.device)
        _squares_kernel[(self.count,)](
            self._pointers, self._owners, self._starts, self._sizes, partial, KIND=self._kind, BLOCK=BLOCK, num_warps=4
        )
        return partial.sum().sqrt()

    def update(
        self,
        *,
        weights: Any,
        average: Any,
        square: Any,
        copies: Any,
        step_count: Any,
        norm: Any,
        withhold: Any,
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        max_norm: float,
    ) -> None:
        """One AdamW update of the flat float32 ``weights`` and its state, rounded into the flat ``copies``.

        Gradients are scaled down where their ``norm`` is above ``max_norm``; nothing happens where ``withhold`` is 1.
        """
        _adamw_kernel[(self.count,)](
            self._pointers, self._owners, self._starts, self._sizes, self._decays, weights, average, square, copies,
            step_count, norm, withhold, learning_rate, math.log(betas[0]), math.log(betas[1]), *betas, epsilon,
            max_norm, KIND=self._kind, BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
