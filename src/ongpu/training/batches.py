"""Batches: the same records in the same steps, either one record a row or packed into one row.

Every batch of a run has the same shapes, so a step can be recorded once and replayed. The stream of records is
whole epochs, each shuffled with a seed of its own: any step is found again without replaying those before it.
With several ranks a step has the records that one process with all their batches would take, dealt out in order.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from ongpu.training.attention import Layout
from ongpu.training.data import IGNORED, Example

_ROUND: Final = 64
"""Tokens of a packed row are a multiple of this: products of odd sizes are slower on tensor cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-step's tensors. ``ids`` and ``labels`` are (rows, tokens); ``share`` is 1 / targets of the step."""

    ids: Any
    labels: Any
    share: Any
    layout: Layout | None
    records: tuple[int, ...]
    targets: int
    """Labels that are learned from."""

    def tensors(self) -> tuple[Any, ...]:
        """Its tensors, in one order."""
        return (self.ids, self.labels, self.share, *(self.layout.tensors() if self.layout else ()))

    def to(self, device: str) -> Batch:
        """The same batch on ``device``; the copy need not have arrived when this returns."""
        ids, labels, share, *places = (tensor.to(device, non_blocking=True) for tensor in self.tensors())
        layout = None
        if self.layout is not None:
            positions, boundaries, spread, gather = places
            layout = Layout(
                positions=positions, boundaries=boundaries, spread=spread, gather=gather, longest=self.layout.longest
            )
        return Batch(ids=ids, labels=labels, share=share, layout=layout, records=self.records, targets=self.targets)


class Stream:
    """All batches of a run, by step."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        seed: int,
        batch_size: int,
        micro_steps: int,
        max_steps: int,
        packed: bool,
        fill: int,
        pinned: bool = False,
        rank: int = 0,
        world_size: int = 1,
        batch_tokens: int = 0,
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._seed, self._batch_size, self._micro_steps = seed, batch_size, micro_steps
        self._examples, self._fill, self._pinned = examples, fill, pinned
        self._ids = [torch.tensor(example.ids) for example in examples]
        self._labels = [torch.tensor(example.labels) for example in examples]
        self._targets = [example.targets for example in examples]
        self._lengths = [len(example.ids) for example in examples]
        self.longest = max(self._lengths)
        self._epoch, self._shuffled = -1, list(range(len(examples)))
        self._packed, self._batch_tokens = packed, batch_tokens
        batches = max_steps * micro_steps * world_size
        self._starts = self._filled(batches) if batch_tokens else range(0, (batches + 1) * batch_size, batch_size)
        self._most_records = max(after - start for start, after in itertools.pairwise(self._starts))
        self.row_tokens = self._row_tokens(batches) if packed else self.longest

    def step(self, number: int) -> list[Batch]:
        """This rank's micro-batches of a step, counted from 1."""
        first = (number - 1) * self._micro_steps
        chosen = [self._records((first + micro) * self._world_size + self._rank) for micro in range(self._micro_steps)]
        share = torch.tensor(1.0 / self.targets(number))
        return [self._pack(indices, share) if self._packed else self._rows(indices, share) for indices in chosen]

    def records(self, number: int) -> tuple[int, ...]:
        """The records of a step, of all ranks."""
        batches = self._micro_steps * self._world_size
        return tuple(index for batch in range(batches) for index in self._records((number - 1) * batches + batch))

    def targets(self, number: int) -> int:
        """The labels a step learns from, of all ranks."""
        return sum(self._targets[index] for index in self.records(number))

    def samples(self, first: int, last: int) -> int:
        """How many records the steps from ``first`` to ``last`` have, of all ranks."""
        batches = self._micro_steps * self._world_size
        return self._starts[last * batches] - self._starts[(first - 1) * batches]

    def resized(self, size: int) -> Stream:
        """The first step's worth of batches of another size, for measuring: tokens where these go by tokens."""
        by_tokens = bool(self._batch_tokens)
        return Stream(
            self._examples,
            seed=self._seed,
            batch_size=self._batch_size if by_tokens else size,
            batch_tokens=max(size, self.longest) if by_tokens else 0,
            micro_steps=1,
            max_steps=1,
            packed=self._packed,
            fill=self._fill,
            pinned=self._pinned,
        )

    def _records(self, batch: int) -> tuple[int, ...]:
        return tuple(self._at(place) for place in range(self._starts[batch], self._starts[batch + 1]))

    def _filled(self, batches: int) -> list[int]:
        """The first record of each batch, and the end, where a batch is as many whole records as fit."""
        starts, place = [0], 0
        for _ in range(batches):
            room = self._batch_tokens
            while (length := self._lengths[self._at(place)]) <= room:
                room, place = room - length, place + 1
            starts.append(place)
        return starts

    def _at(self, place: int) -> int:
        epoch, offset = divmod(place, len(self._ids))
        if epoch != self._epoch:
            self._shuffled = list(range(len(self._ids)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._shuffled)
            self._epoch = epoch
        return self._shuffled[offset]

    def _row_tokens(self, batches: int) -> int:
        """The longest packed row of the run, of any rank, rounded up."""
        most = self._batch_tokens
        if not most:
            most = max(sum(self._lengths[index] for index in self._records(batch)) for batch in range(batches))
        return -(-most // _ROUND) * _ROUND

    def _rows(self, indices: tuple[int, ...], share: Any) -> Batch:
        """One record a row, filled on the right: causal attention needs no mask, and filling has no label."""
        ids = self._full(len(indices), self._fill)
        labels = self._full(len(indices), IGNORED)
        for row, index in enumerate(indices):
            ids[row, : self._lengths[index]] = self._ids[index]
            labels[row, : self._lengths[index]] = self._labels[index]
        return self._batch(ids, labels, share, None, indices)

    def _pack(self, indices: tuple[int, ...], share: Any) -> Batch:
        """Whole records one behind the other."""
        lengths = torch.tensor([self._lengths[index] for index in indices])
        ends = lengths.cumsum(0)
        real = int(ends[-1])
        ids, labels = self._full(1, self._fill), self._full(1, IGNORED)
        ids[0, :real] = torch.cat([self._ids[index] for index in indices])
        labels[0, :real] = torch.cat([self._labels[index] for index in indices])

        starts = ends - lengths
        place = torch.arange(self.longest)
        spread = torch.zeros(self._most_records, self.longest, dtype=torch.int64)
        spread[: len(indices)] = starts[:, None] + torch.minimum(place[None, :], lengths[:, None] - 1)
        gather, positions = self._full(1, 0)[0], self._full(1, 0)[0]
        record = torch.repeat_interleave(torch.arange(len(indices)), lengths)
        positions[:real] = torch.arange(real) - starts[record]
        gather[:real] = record * self.longest + positions[:real]

        # filling is cut into records of its own, for attention that must know where every token belongs
        fillings = -(-(self.row_tokens - real) // self.longest)
        most = self._most_records + self.row_tokens // self.longest + 2
        boundaries = torch.full((most + 1,), self.row_tokens, dtype=torch.int32)
        boundaries[0] = 0
        boundaries[1 : len(indices) + 1] = ends
        for filling in range(fillings):
            end = min(real + (filling + 1) * self.longest, self.row_tokens)
            boundaries[len(indices) + 1 + filling] = end
            size = end - (real + filling * self.longest)
            positions[end - size : end] = place[:size]
        layout = Layout(
            positions=self._pin(positions),
            boundaries=self._pin(boundaries),
            spread=self._pin(spread.reshape(-1)),
            gather=self._pin(gather),
            longest=self.longest,
        )
        return self._batch(ids, labels, share, layout, indices)

    def _batch(self, ids: Any, labels: Any, share: Any, layout: Layout | None, indices: tuple[int, ...]) -> Batch:
        return Batch(
            ids=self._pin(ids),
            labels=self._pin(labels),
            share=self._pin(share),
            layout=layout,
            records=indices,
            targets=sum(self._targets[index] for index in indices),
        )

    def _full(self, rows: int, value: int) -> Any:
        return torch.full((rows, self.row_tokens), value, dtype=torch.int64)

    def _pin(self, tensor: Any) -> Any:
        return tensor.pin_memory() if self._pinned else tensor


class HeldOut:
    """Records that are not trained on, one a row."""

    def __init__(self, examples: Sequence[Example], *, batch_size: int, fill: int) -> None:
        self._examples, self._batch_size, self._fill = examples, batch_size, fill
        self.targets = sum(example.targets for example in examples)

    def once(self, device: str, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """This rank's part of the records, each once, in order.

        Every rank gets as many batches, since weights in parts are gathered by all of them together: one that is too
        many has no labels.
        """
        starts = list(range(0, len(self._examples), self._batch_size))
        for turn in range(0, len(starts), world_size):
            mine = turn + rank < len(starts)
            start = starts[turn + rank] if mine else 0
            part = self._examples[start : start + self._batch_size]
            rows = Stream(
                part,
                seed=0,
                batch_size=len(part),
                micro_steps=1,
                max_steps=1,
                packed=False,
                fill=self._fill,
            )
            for batch in rows.step(1):
                if not mine:
                    batch.labels.fill_(IGNORED)
                yield batch.to(device)
