"""Batches: the same records in the same steps, either one record a row or packed into one row.

Every batch of a run has the same shapes, so a step can be recorded once and replayed. The stream of records is
whole epochs, each shuffled with a seed of its own: any step is found again without replaying those before it.
With several ranks a step has the records that one process with all their batches would take, dealt out in order.
"""

from __future__ import annotations

import itertools
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from ongpu.training.attention import Layout
from ongpu.training.data import IGNORED, Example, Tokens

_ROUND: Final = 64
"""Tokens of a packed row are a multiple of this: products of odd sizes are slower on tensor cores."""
_KEPT_PLACES: Final = 1 << 25
"""Places of shuffled epochs that are kept, four bytes each: shuffling a million records takes most of a second."""


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
        examples: Tokens | Iterable[Example],
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
        self._tokens = examples if isinstance(examples, Tokens) else Tokens.of(examples)
        self._fill, self._pinned = fill, pinned
        self._targets: list[int] = self._tokens.targets.tolist()
        self._lengths: list[int] = self._tokens.lengths.tolist()
        self.longest = max(self._lengths)
        self._orders: dict[int, array[int]] = {}
        self._ends_epoch, self._ends = -1, array("q")
        self._packed, self._batch_tokens = packed, batch_tokens
        batches = max_steps * micro_steps * world_size
        self._starts = self._filled(batches) if batch_tokens else range(0, (batches + 1) * batch_size, batch_size)
        self._most_records = max(after - start for start, after in itertools.pairwise(self._starts))
        self.row_tokens = self._row_tokens() if packed else self.longest

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
            self._tokens,
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
        return tuple(
            index
            for epoch, first, last in self._pieces(self._starts[batch], self._starts[batch + 1])
            for index in self._order(epoch)[first:last]
        )

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The places from ``start`` to ``end`` by epochs: which, and from where to where in it."""
        while start < end:
            epoch, first = divmod(start, len(self._lengths))
            last = min(len(self._lengths), first + end - start)
            yield epoch, first, last
            start += last - first

    def _filled(self, batches: int) -> list[int]:
        """The first record of each batch, and the end, where a batch is as many whole records as fit."""
        starts, place = [0], 0
        for _ in range(batches):
            room, full = self._batch_tokens, False
            while not full:
                epoch, first = divmod(place, len(self._lengths))
                ends = self._ends_of(epoch)
                last = bisect_right(ends, ends[first] + room) - 1
                room, place = room - (ends[last] - ends[first]), place + last - first
                full = last < len(self._lengths)  # else the next epoch's first records may fit too
            starts.append(place)
        return starts

    def _order(self, epoch: int) -> array[int]:
        """The records of an epoch, in the order in which they come."""
        order = self._orders.pop(epoch, None)
        if order is None:
            shuffled = list(range(len(self._lengths)))
            random.Random(f"{self._seed}/{epoch}").shuffle(shuffled)
            order = array("i", shuffled)
        self._orders[epoch] = order  # the last one is the one used last
        while len(self._orders) > max(2, _KEPT_PLACES // len(order)):  # a batch may have two epochs' records
            del self._orders[next(iter(self._orders))]
        return order

    def _ends_of(self, epoch: int) -> array[int]:
        """Tokens of an epoch before its first record, before its second, ..., and of all."""
        if epoch != self._ends_epoch:
            sizes = (self._lengths[index] for index in self._order(epoch))
            self._ends_epoch, self._ends = epoch, array("q", itertools.accumulate(sizes, initial=0))
        return self._ends

    def _size(self, start: int, end: int) -> int:
        """Tokens of the records at these places."""
        size = 0
        for epoch, first, last in self._pieces(start, end):
            ends = self._ends_of(epoch)
            size += ends[last] - ends[first]
        return size

    def _row_tokens(self) -> int:
        """The longest packed row of the run, of any rank, rounded up."""
        most = self._batch_tokens or max(itertools.starmap(self._size, itertools.pairwise(self._starts)))
        return -(-most // _ROUND) * _ROUND

    def _rows(self, indices: tuple[int, ...], share: Any) -> Batch:
        """One record a row, filled on the right: causal attention needs no mask, and filling has no label."""
        ids = self._full(len(indices), self._fill)
        labels = self._full(len(indices), IGNORED)
        found = self._tokens.row(torch.tensor(indices))
        ids[found.record, found.offset] = found.ids
        labels[found.record, found.offset] = found.labels
        return self._batch(ids, labels, share, None, indices)

    def _pack(self, indices: tuple[int, ...], share: Any) -> Batch:
        """Whole records one behind the other."""
        found = self._tokens.row(torch.tensor(indices))
        lengths, real = found.lengths, len(found.ids)
        ids, labels = self._full(1, self._fill), self._full(1, IGNORED)
        ids[0, :real], labels[0, :real] = found.ids, found.labels

        ends = lengths.cumsum(0)
        starts = ends - lengths
        place = torch.arange(self.longest)
        spread = torch.zeros(self._most_records, self.longest, dtype=torch.int64)
        spread[: len(indices)] = starts[:, None] + torch.minimum(place[None, :], lengths[:, None] - 1)
        gather, positions = self._full(1, 0)[0], self._full(1, 0)[0]
        positions[:real] = found.offset
        gather[:real] = found.record * self.longest + found.offset

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

    def __init__(self, examples: Tokens | Iterable[Example], *, batch_size: int, fill: int) -> None:
        self._tokens = examples if isinstance(examples, Tokens) else Tokens.of(examples)
        self._batch_size, self._fill = batch_size, fill
        self.targets = int(self._tokens.targets.sum())

    def once(self, device: str, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """This rank's part of the records, each once, in order.

        Every rank gets as many batches, since weights in parts are gathered by all of them together: one that is too
        many has no labels.
        """
        starts = list(range(0, len(self._tokens), self._batch_size))
        for turn in range(0, len(starts), world_size):
            mine = turn + rank < len(starts)
            start = starts[turn + rank] if mine else 0
            part = self._tokens.pick(slice(start, start + self._batch_size))
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
