"""Every kernel of a step at once: kept by an earlier run, or compiled together before the first step.

For each kernel Triton has an assembler for the GPU run. One after the other, with a C compiler for each call, that took
13 s for GPT-2 on a machine with 16 cores; they have nothing to do with one another.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from ongpu.training import binaries, fp8_cast, kernels, record_attention, update
from ongpu.training import fp8 as float8
from ongpu.training.data import IGNORED
from ongpu.training.layers import Sizes
from ongpu.training.store import Store, key_of

_WORKERS: Final = 16


class Kept:
    """The kernels of runs with these sizes, as an earlier one compiled them."""

    def __init__(
        self,
        store: Store | None,
        sizes: Sizes,
        *,
        longest: int,
        fp8: bool,
        capability: tuple[int, int],
        say: Callable[[str], None],
    ) -> None:
        """``longest``: tokens of the longest record."""
        self._store, self._say, self._capability = store, say, capability
        self._sizes = (sizes, record_attention.tiles(longest) if longest <= record_attention.LONGEST else 0, fp8)
        self._loaded = False

    @functools.cached_property
    def _key(self) -> str:
        modules = [binaries, kernels, update, record_attention, fp8_cast]
        return key_of(binaries.identity(modules, capability=self._capability), *self._sizes)

    def load(self) -> bool:
        """Load them, if they are there."""
        if self._store and not self._loaded:
            self._loaded = self._store.find(self._key, _take, say=self._say) is not None
        return self._loaded

    def keep(self) -> None:
        """Keep what this run has compiled."""
        content = binaries.dump()

        def write(path: Path) -> None:
            path.write_bytes(content)

        if self._store and content:
            self._store.keep(self._key, "json", write, size_bytes=len(content), say=self._say)


def _take(path: Path) -> bool:
    binaries.take(path.read_bytes())
    return True


def rehearse(sizes: Sizes, optimizer: Any, *, tokens: int, longest: int, boundaries: Any, fp8: bool = False) -> None:
    """Call each kernel once, with arguments of the kind a step of ``tokens`` tokens has; what they compute is dropped.

    ``boundaries`` are those of a packed row, on the device; ``longest`` is the longest record in tokens; ``fp8`` says
    that products are made in float8.
    """
    index = boundaries.device.index
    calls = [*_norms(sizes, tokens, boundaries.device), *_others(sizes, tokens, boundaries, longest)]
    if fp8:
        x = torch.zeros(tokens, sizes.width, dtype=torch.bfloat16, device=boundaries.device)
        calls += [functools.partial(fp8_cast.cast, x, kind) for kind in {float8.VALUES, float8.SLOPES}]

    def run(call: Callable[[], object]) -> None:
        if index is not None:
            torch.cuda.set_device(index)  # a new thread has the first
        call()

    with concurrent.futures.ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        for done in [pool.submit(run, call) for call in [optimizer.rehearse, *calls]]:
            done.result()


def _norms(sizes: Sizes, tokens: int, device: Any) -> Iterator[Callable[[], object]]:
    """The first norm of a network adds nothing up, and behind the last there is no sum."""
    x = torch.zeros(tokens, sizes.width, dtype=torch.bfloat16, device=device)
    vector = torch.zeros(sizes.width, dtype=torch.bfloat16, device=device)
    shift = vector if sizes.layer_norm else None
    bias = vector if sizes.biases else None
    each = torch.zeros(tokens, dtype=torch.float32, device=device)
    mean = each if sizes.layer_norm else each[:0]
    yield lambda: kernels.add_norm(x, None, None, vector, shift, epsilon=1e-5)
    yield lambda: kernels.add_norm(x, x, bias, vector, shift, epsilon=1e-5)
    yield lambda: kernels.add_norm_backward(x, vector, mean, each, x, x, has_bias=False)
    if sizes.biases:
        yield lambda: kernels.add_norm_backward(x, vector, mean, each, x, x, has_bias=True)
    yield lambda: kernels.add_norm_backward(x, vector, mean, each, x, None, has_bias=sizes.biases)


def _others(sizes: Sizes, tokens: int, boundaries: Any, longest: int) -> Iterator[Callable[[], object]]:
    def zeros(*shape: int) -> Any:
        return torch.zeros(shape, dtype=torch.bfloat16, device=boundaries.device)

    x, inner = zeros(tokens, sizes.width), zeros(tokens, sizes.inner)
    if sizes.gated:
        both = zeros(tokens, 2 * sizes.inner)
        yield lambda: kernels.gated(both)
        yield lambda: kernels.gated_backward(both, inner)
    else:
        vector = zeros(sizes.inner)
        yield lambda: kernels.bias_gelu(inner, vector)
        yield lambda: kernels.bias_gelu_backward(inner, vector, inner)
    packed = zeros(tokens, (sizes.heads + 2 * sizes.keys) * sizes.head_width)
    if sizes.input_bias:
        yield lambda: kernels.column_sum(packed)
    if sizes.turned:
        turns = (torch.zeros(tokens, sizes.head_width // 2, device=boundaries.device),) * 2
        for back in (False, True):
            yield functools.partial(kernels.turn_, packed, turns, heads=sizes.heads + sizes.keys, back=back)
    if longest <= record_attention.LONGEST:
        records = {"longest": longest, "heads": sizes.heads, "keys": sizes.keys}
        mixed, sums = zeros(tokens, sizes.heads * sizes.head_width), torch.zeros(sizes.heads, tokens)
        sums = sums.to(boundaries.device)
        yield lambda: record_attention.forward(packed, boundaries, **records)
        yield from record_attention.backward_parts(packed, boundaries, mixed, mixed, sums, **records)
    logits, labels = zeros(64, sizes.vocabulary), torch.zeros(64, dtype=torch.int64, device=boundaries.device)
    yield lambda: kernels.cross_entropy_(logits, labels, ignored=IGNORED)
    factor = torch.zeros((), dtype=torch.float32, device=boundaries.device)
    yield lambda: kernels.scale_(x, factor)
