"""Records as tensors: the same records, labels and batches as when every number is spelled out."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.training.batches import Stream
from ongpu.training.data import IGNORED, Example, Tokens, encode
from ongpu.training.records import Record

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


def spelled_out(lengths: list[int]) -> list[Example]:
    made = []
    for place, length in enumerate(lengths):
        ids = tuple(100 * place + offset for offset in range(length))
        masked = place % 3 if place % 2 else 0
        labels = [*ids[1:], IGNORED]
        labels[:masked] = [IGNORED] * min(masked, length)
        made.append(Example(ids=ids, labels=tuple(labels), cut_tokens=place % 2))
    return made


@given(LENGTHS)
def test_records_come_back_as_they_went_in(lengths: list[int]) -> None:
    examples = spelled_out(lengths)
    tokens = Tokens.of(examples)
    assert list(tokens) == examples
    assert tokens.targets.tolist() == [sum(label != IGNORED for label in one.labels) for one in examples]
    odd = tokens.pick(torch.arange(len(examples)) % 2 == 1)
    assert list(odd) == examples[1::2]
    assert odd.cut_records == len(odd)


def test_labels_that_are_not_the_next_tokens_are_no_records() -> None:
    with pytest.raises(ValueError, match="labels"):
        Tokens.of([Example(ids=(1, 2, 3), labels=(2, 9, IGNORED))])


def test_the_digest_is_of_the_tokens_and_of_their_borders() -> None:
    one, other = Tokens.of(spelled_out([3, 4])), Tokens.of(spelled_out([4, 3]))
    assert one.digest() == Tokens.of(spelled_out([3, 4])).digest()
    assert one.digest() != other.digest()
    assert one.digest() != one.pick(slice(1)).digest()


def naive_batches(lengths: list[int], *, seed: int, batch_tokens: int, batch_size: int) -> Any:
    """Each batch's records, one place after the other."""

    def places() -> Any:
        for epoch in itertools.count():
            order = list(range(len(lengths)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            yield from order

    coming = places()
    following = next(coming)
    while True:
        batch: list[int] = []
        while len(batch) < batch_size if not batch_tokens else lengths[following] <= batch_tokens:
            batch.append(following)
            batch_tokens_left = batch_tokens - sum(lengths[index] for index in batch)
            following = next(coming)
            if batch_tokens and lengths[following] > batch_tokens_left:
                break
        yield tuple(batch)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 5), st.integers(0, 90), st.integers(1, 40))
def test_batches_are_those_of_one_place_after_the_other(
    lengths: list[int], seed: int, more_tokens: int, batch_size: int
) -> None:
    for batch_tokens in (0, max(lengths) + more_tokens):
        made = Stream(
            spelled_out(lengths),
            seed=seed,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            micro_steps=1,
            max_steps=12,
            packed=True,
            fill=0,
        )
        expected = naive_batches(lengths, seed=seed, batch_tokens=batch_tokens, batch_size=batch_size)
        sizes = []
        for step in range(1, 13):
            records = next(expected)
            assert made.records(step) == records
            sizes.append(sum(lengths[index] for index in records))
        assert made.row_tokens == -(-(batch_tokens or max(sizes)) // 64) * 64
        assert made.records(1) == made.records(1)  # long after, of an epoch that may have been forgotten


class Letters:
    """A tokenizer of one token a letter that counts how many texts it is given at once."""

    size, end_id, identity = 1 << 20, 0, "letters"

    def __init__(self) -> None:
        self.most = 0

    def encode(self, texts: Any) -> list[list[int]]:
        self.most = max(self.most, len(texts))
        return [[ord(letter) for letter in text] for text in texts]

    def save(self, folder: Any) -> None:
        raise NotImplementedError


def test_many_records_are_encoded_by_parts() -> None:
    one = Record(prompt="p", steps=("s",), answer="a")
    letters = Letters()
    tokens = encode((one for _ in range(5000)), letters, max_length=1000, completion_only=True)
    assert len(tokens) == 5000
    assert letters.most < 5000
    assert tokens[4999] == tokens[0]
    assert [label for label in tokens[0].labels if label != IGNORED] == [*map(ord, one.completion), 0]
