"""Packed rows, losses in chunks and held-out records: the same numbers, by another way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ongpu.training import gpt2 as models
from ongpu.training.attention import attend
from ongpu.training.batches import HeldOut, Stream
from ongpu.training.data import IGNORED, Example
from ongpu.training.loss import head_loss

SHAPE = models.tiny_shape(vocab_size=128, end_id=0)


def example(length: int, seed: int, *, masked: int = 0) -> Example:
    ids = torch.randint(1, 128, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    labels = [*ids[1:], IGNORED]
    labels[:masked] = [IGNORED] * masked
    return Example(ids=tuple(ids), labels=tuple(labels))


def stream(
    examples: list[Example], *, packed: bool, batch_size: int = 3, micro_steps: int = 1, steps: int = 8
) -> Stream:
    return Stream(
        examples, seed=1, batch_size=batch_size, micro_steps=micro_steps, max_steps=steps, packed=packed, fill=0
    )


def alone(model: Any, examples: list[Example]) -> Any:
    """The reference: each record by itself, without filling."""
    total = torch.zeros(())
    for one in examples:
        total = total + model.loss_sum(torch.tensor([one.ids]), torch.tensor([one.labels]))
    return total


LENGTHS = [5, 31, 2, 17, 40, 9, 28, 3, 12]


@pytest.mark.process
def test_blocks_computed_twice_are_really_computed_twice() -> None:
    model, calls = models.build(SHAPE, seed=3), []
    model.transformer.h[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.ones(1, 8, dtype=torch.int64)
    model.loss_sum(ids, ids).backward()
    assert len(calls) == 1
    model.recompute_blocks()
    model.loss_sum(ids, ids).backward()
    assert len(calls) == 3
    with torch.no_grad():
        model(ids)
    assert len(calls) == 4


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk_tokens", [0, 7])
def test_loss_and_gradients_are_those_of_each_record_alone(*, packed: bool, chunk_tokens: int) -> None:
    examples = [example(length, seed, masked=seed % 3) for seed, length in enumerate(LENGTHS)]
    batches = stream(examples, packed=packed)
    for step in (1, 2, 3):
        (batch,) = batches.step(step)
        ours, reference = models.build(SHAPE, seed=3), models.build(SHAPE, seed=3)
        got = ours.loss_sum(batch.ids, batch.labels, batch.layout, chunk_tokens=chunk_tokens) * batch.share
        expected = alone(reference, [examples[index] for index in batch.records]) * batch.share
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        got.backward()
        expected.backward()
        for (name, mine), theirs in zip(ours.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_packing_keeps_the_records_of_every_step_and_one_shape() -> None:
    examples = [example(length, seed) for seed, length in enumerate(LENGTHS)]
    rows, packed = stream(examples, packed=False), stream(examples, packed=True)
    shapes = set()
    for step in range(1, 9):
        (one,), (other,) = rows.step(step), packed.step(step)
        assert one.records == other.records
        assert one.targets == other.targets == int((other.labels != IGNORED).sum())
        assert float(one.share) == float(other.share) == pytest.approx(1 / one.targets)
        assert other.layout is not None
        shapes.add(tuple(tensor.shape for tensor in other.tensors()))
        boundaries = other.layout.boundaries.tolist()
        assert boundaries[0] == 0
        assert boundaries[-1] == packed.row_tokens
        assert boundaries == sorted(boundaries)
        assert max(b - a for a, b in itertools.pairwise(boundaries)) <= other.layout.longest
        sizes = [b - a for a, b in itertools.pairwise(boundaries)][: len(one.records)]
        assert sizes == [len(examples[index].ids) for index in one.records]
    assert len(shapes) == 1


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    batch_tokens=st.integers(40, 200),
    micro_steps=st.integers(1, 3),
)
def test_rows_of_so_many_tokens_hold_as_many_whole_records_as_fit(
    lengths: list[int], batch_tokens: int, micro_steps: int
) -> None:
    examples = [example(length, seed) for seed, length in enumerate(lengths)]

    def of_rank(rank: int, world_size: int) -> Stream:
        return Stream(
            examples,
            seed=1,
            batch_size=1,
            batch_tokens=batch_tokens,
            micro_steps=micro_steps,
            max_steps=6,
            packed=True,
            fill=0,
            rank=rank,
            world_size=world_size,
        )

    whole = of_rank(0, 1)
    batches = [batch for step in range(1, 7) for batch in whole.step(step)]
    assert len({tuple(tensor.shape for tensor in batch.tensors()) for batch in batches}) == 1
    for batch, after in itertools.pairwise(batches):
        taken = sum(lengths[index] for index in batch.records)
        assert taken <= batch_tokens < taken + lengths[after.records[0]]  # the next record did not fit
    order = [index for batch in batches for index in batch.records]
    assert whole.samples(1, 6) == len(order)
    if len(order) >= len(lengths):
        assert sorted(order[: len(lengths)]) == list(range(len(lengths)))
    # two ranks share out the same rows
    two = [of_rank(rank, 2).step(1) for rank in (0, 1)]
    dealt = [two[place % 2][place // 2].records for place in range(2 * micro_steps)]
    assert dealt == [batch.records for batch in batches[: 2 * micro_steps]]


@pytest.mark.parametrize("batch_tokens", [64, 200])
def test_loss_and_gradients_of_rows_filled_by_tokens(batch_tokens: int) -> None:
    examples = [example(length, seed) for seed, length in enumerate(LENGTHS)]
    rows = Stream(
        examples, seed=1, batch_size=1, batch_tokens=batch_tokens, micro_steps=1, max_steps=4, packed=True, fill=0
    )
    model = models.build(SHAPE, seed=3)
    for step in range(1, 5):
        (batch,) = rows.step(step)
        with torch.no_grad():
            ours = model.loss_sum(batch.ids, batch.labels, batch.layout)
            torch.testing.assert_close(ours, alone(model, [examples[index] for index in batch.records]))


def test_an_epoch_holds_every_record_once_and_any_step_is_found_again() -> None:
    examples = [example(4, seed) for seed in range(12)]
    batches = stream(examples, packed=False)
    epochs = [
        [index for step in part for index in batches.step(step)[0].records] for part in ((1, 2, 3, 4), (5, 6, 7, 8))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    assert stream(examples, packed=False).step(7)[0].records == batches.step(7)[0].records
    pairs = stream(examples, packed=False, batch_size=1, micro_steps=3)
    assert [one.records[0] for one in pairs.step(2)] == list(batches.step(2)[0].records)
    assert sum(one.targets for one in pairs.step(2)) == pytest.approx(1 / float(pairs.step(2)[0].share))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=3, max_size=9))
def test_a_token_attends_to_its_own_record_alone(lengths: list[int]) -> None:
    examples = [example(length, seed) for seed, length in enumerate(lengths)]
    (batch,) = stream(examples, packed=True, batch_size=len(lengths), steps=1).step(1)
    generator = torch.Generator().manual_seed(0)
    tokens = batch.ids.shape[1]
    query = torch.randn(1, tokens, 4, 8, generator=generator)
    key, value = (torch.randn(1, tokens, 2, 8, generator=generator) for _ in range(2))
    mixed = attend(query, key, value, batch.layout)
    assert torch.isfinite(mixed).all()
    start = 0
    for index in batch.records:
        part = slice(start, start + lengths[index])
        own = [tensor[:, part].transpose(1, 2) for tensor in (query, key, value)]
        expected = functional.scaled_dot_product_attention(
            own[0], own[1].repeat_interleave(2, 1), own[2].repeat_interleave(2, 1), is_causal=True
        )
        torch.testing.assert_close(mixed[:, part], expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
        start = part.stop


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_a_loss_in_chunks_is_the_whole_loss(tokens: int, chunk_tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 16, generator=generator, dtype=torch.float64)
    head = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 50, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < 0.3] = IGNORED
    results = []
    for chunk in (0, chunk_tokens):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = head_loss(leaves[0], leaves[1], labels, chunk_tokens=chunk) * 0.25
        loss.backward()
        results.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_held_out_records_are_each_seen_once() -> None:
    examples = [example(length, seed) for seed, length in enumerate(LENGTHS)]
    held_out = HeldOut(examples, batch_size=4, fill=0)
    batches = list(held_out.once("cpu"))
    assert sum(len(batch.records) for batch in batches) == len(examples)
    assert sum(batch.targets for batch in batches) == held_out.targets
