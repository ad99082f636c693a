"""Products in float8: an option (``fp8: true``) that rounds more, never taken by the policy itself.

Both sides of each linear product inside the blocks are cast to 8 bits, each tensor with one scale made of its own
largest value (none is carried from step to step, so a resumed run goes on exactly). Products are bfloat16 again, and
gradients, masters, AdamW, norms, attention, embeddings and the head stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

Cast = Callable[[Any, torch.dtype], tuple[Any, Any, Any]]
"""``fp8_cast.cast``, or what does the same where there is no Triton."""

VALUES: Final = torch.float8_e4m3fn
SLOPES: Final = torch.float8_e5m2
"""It reaches further (Micikevicius et al. 2022). With e4m3 the losses of GPT-2 124M lay further above bfloat16's, as
docs/performance.md shows."""
FAST_FORWARD: Final = True
"""Add up with fewer bits, which is faster; the backward pass adds with more (as Transformer Engine chooses)."""
FAST_BACKWARD: Final = False


class Weight:
    """One weight of a block (or several that are used as one) in 8 bits: cast at its first use in each step."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._by_output: Any = None
        self._by_input: Any = None
        self._scale: Any = None
        self._outputs_first = False

    def forget(self) -> None:
        """The weight has changed, or may have."""
        self._by_output = None

    def multiply(self, x: Any, weight: Any, bias: Any = None) -> tuple[Any, tuple[Any, Any]]:
        """``x @ weight + bias``, and what :meth:`slopes` needs of it.

        ``x`` is (tokens, inputs) and ``weight`` (inputs, outputs), in whatever order it lies in memory. All sizes are
        multiples of 16.
        """
        if self._by_output is None:
            self._outputs_first = not weight.is_contiguous()
            same, turned, self._scale = self._cast(weight.t() if self._outputs_first else weight, VALUES)
            self._by_output, self._by_input = (same, turned) if self._outputs_first else (turned, same)
        rows, columns, scale = self._cast(x, VALUES)
        return _product(rows, scale, self._by_output, self._scale, bias=bias, fast=FAST_FORWARD), (columns, scale)

    def slopes(self, slope: Any, columns: Any, scale: Any) -> tuple[Any, Any]:
        """The slopes of ``x`` and ``weight``, the latter in the order in which the weight lies in memory."""
        rows, turned, unit = self._cast(slope.contiguous(), SLOPES)
        to_x = _product(rows, unit, self._by_input, self._scale, fast=FAST_BACKWARD)
        if self._outputs_first:
            return to_x, _product(turned, unit, columns, scale, fast=FAST_BACKWARD).t()
        return to_x, _product(columns, scale, turned, unit, fast=FAST_BACKWARD)


def _product(left: Any, left_scale: Any, right: Any, right_scale: Any, *, fast: bool, bias: Any = None) -> Any:
    """``left @ right.t()`` in bfloat16: the hardware multiplies rows by rows, so both lie along what is summed."""
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_scale,
        scale_b=right_scale,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )


class Product(torch.autograd.Function):
    """``x @ weight`` by :class:`Weight`."""

    @staticmethod
    def forward(context: Any, x: Any, weight: Any, small: Weight) -> Any:
        """(tokens, inputs) to (tokens, outputs)."""
        out, kept = small.multiply(x, weight)
        context.save_for_backward(*kept)
        context.small = small
        return out

    @staticmethod
    def backward(context: Any, *slopes: Any) -> Any:
        """The slopes of x and weight."""
        return *context.small.slopes(slopes[0], *context.saved_tensors), None


def attach(model: Any, cast: Cast) -> list[Weight]:
    """Let each block of ``model`` multiply in float8; returns what is to be forgotten before each step."""
    made: list[Weight] = []
    for block in model.modules():
        if hasattr(block, "small"):
            block.small = tuple(Weight(cast) for _ in block.small)
            made += block.small
    return made
