"""From records to tokens: a tokenizer, token ids, labels."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from ongpu.errors import WorkError
from ongpu.training.records import Record

IGNORED: Final = -100
"""The label of a position that is not learned from (``cross_entropy``'s own default)."""
END_OF_TEXT: Final = "<|endoftext|>"
_AT_ONCE: Final = 2048
"""Records that are encoded together: enough for every core, while what the library keeps of a text stays small."""


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer, ours or that of transformers."""

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        ...

    @property
    def end_id(self) -> int:
        """The token that ends a record, and fills the rest of a row."""
        ...

    @property
    def identity(self) -> str:
        """The same for two tokenizers only if they make the same tokens of every text; empty: not known."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with no special tokens added."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files transformers' ``AutoTokenizer`` loads."""
        ...


def tokenizers_library() -> Any:
    """The ``tokenizers`` package; :class:`WorkError` where it is missing."""
    try:
        import tokenizers  # noqa: PLC0415 - a machine without it must get a message, not a traceback
    except ImportError:
        raise WorkError(
            "The tokenizers library is not installed.", next_step="Install it: pip install tokenizers."
        ) from None
    return tokenizers


class BytePairTokenizer:
    """A byte-level BPE of the ``tokenizers`` library."""

    def __init__(self, inner: Any, *, end: str) -> None:
        self._inner, self._end, self._end_id = inner, end, int(inner.token_to_id(end))

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, vocab_size: int) -> BytePairTokenizer:
        """Train on ``texts``; the same texts give the same tokenizer."""
        tokenizers = tokenizers_library()
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner, end=END_OF_TEXT)

    @classmethod
    def from_json(cls, text: str) -> BytePairTokenizer:
        """What :meth:`to_json` of one that :meth:`from_texts` made returned; the library raises for any other text."""
        return cls(tokenizers_library().Tokenizer.from_str(text), end=END_OF_TEXT)

    def to_json(self) -> str:
        """The content of ``tokenizer.json``."""
        return str(self._inner.to_str(pretty=False))

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._inner.get_vocab().values())

    @property
    def end_id(self) -> int:
        """The id of the end-of-text token."""
        return self._end_id

    @property
    def identity(self) -> str:
        """The digest of ``tokenizer.json``, with the version of the library that reads it."""
        return identity_of(self.to_json(), self._end)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with no special tokens added."""
        # the fast one leaves out where each token lies in the text; older libraries lack it
        encode_batch = getattr(self._inner, "encode_batch_fast", self._inner.encode_batch)
        return [one.ids for one in encode_batch(list(texts), add_special_tokens=False)]

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._end,
            "eos_token": self._end,
            "unk_token": self._end,
            "pad_token": self._end,
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def identity_of(tokenizer_json: str, end: str) -> str:
    """The :attr:`Tokenizer.identity` of a tokenizer of the ``tokenizers`` library."""
    parts = (tokenizers_library().__version__, end, tokenizer_json)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One record as tokens. ``labels[i]`` is the token that follows ``ids[i]``, or ``IGNORED``."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Records one behind the other, as int64 tensors of one entry a token: ``record`` counts from 0 within the row."""

    ids: Any
    labels: Any
    lengths: Any
    """One entry a record."""
    record: Any
    offset: Any
    """The token's place in its record."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Records as tokens, in one tensor for all: four bytes a token, where numbers of Python would take 44.

    Record ``i`` is ``ids[starts[i] : starts[i] + lengths[i]]``. Its labels are the tokens that follow, ``IGNORED`` for
    the last one and for the first ``masked[i]``; ``cut[i]`` tokens of it were left out.
    """

    ids: Any
    starts: Any
    lengths: Any
    masked: Any
    cut: Any

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Tokens:
        """Of records that are spelled out; ``ValueError`` where labels are not the tokens that follow."""
        ids, lengths, masked, cut = array("i"), array("i"), array("i"), array("i")
        for example in examples:
            size = len(example.ids)
            hidden = next((place for place, label in enumerate(example.labels) if label != IGNORED), size)
            if example.labels[hidden:] != (*example.ids[hidden + 1 :], IGNORED)[: size - hidden]:
                raise ValueError("labels that are not the tokens that follow")
            for column, value in ((lengths, size), (masked, hidden), (cut, example.cut_tokens)):
                column.append(value)
            ids.extend(example.ids)
        return cls.of_columns(*map(_tensor, (ids, lengths, masked, cut)))

    @classmethod
    def of_columns(cls, ids: Any, lengths: Any, masked: Any, cut: Any) -> Tokens:
        """Of int32 tensors, the records lying one behind the other in ``ids``."""
        wide = lengths.long()
        return cls(ids=ids, starts=wide.cumsum(0) - wide, lengths=wide, masked=masked, cut=cut)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        row = self.row(torch.tensor([range(len(self))[index]]))
        return Example(ids=tuple(row.ids.tolist()), labels=tuple(row.labels.tolist()), cut_tokens=int(self.cut[index]))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def targets(self) -> Any:
        """How many labels of each record are learned from."""
        return (self.lengths - 1 - self.masked).clamp_(min=0)

    @property
    def cut_records(self) -> int:
        """Records of which something was left out."""
        return int((self.cut > 0).sum())

    def pick(self, chosen: Any) -> Tokens:
        """The records with these indices (or where a tensor of truths is true); ``ids`` are shared, not copied."""
        return Tokens(
            ids=self.ids,
            starts=self.starts[chosen],
            lengths=self.lengths[chosen],
            masked=self.masked[chosen],
            cut=self.cut[chosen],
        )

    def row(self, chosen: Any) -> Row:
        """The records with these indices, one behind the other."""
        lengths = self.lengths[chosen]
        ends = lengths.cumsum(0)
        record = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        offset = torch.arange(len(record)) - (ends - lengths)[record]
        ids = self.ids[self.starts[chosen][record] + offset].long()
        labels = torch.empty_like(ids)
        labels[:-1] = ids[1:]
        labels[ends - 1] = IGNORED
        labels[offset < self.masked[chosen][record]] = IGNORED
        return Row(ids=ids, labels=labels, lengths=lengths, record=record, offset=offset)

    def digest(self) -> str:
        """The SHA-256 of all tokens, and of which records lie where in them."""
        found = hashlib.sha256()
        for column in (self.starts, self.lengths, self.ids):
            size = column.numel() * column.element_size()
            found.update((ctypes.c_char * size).from_address(column.data_ptr()))  # torch's own way needs numpy
        return found.hexdigest()


def encode(records: Iterable[Record], tokenizer: Tokenizer, *, max_length: int, completion_only: bool) -> Tokens:
    """Tokens of every record, cut to ``max_length`` from the right.

    Prompt and completion are encoded apart, so the border that a masked prompt needs is exact.
    """
    ids, lengths, masked, cut = array("i"), array("i"), array("i"), array("i")
    remaining = iter(records)
    while part := list(itertools.islice(remaining, _AT_ONCE)):
        questions = tokenizer.encode([record.question for record in part])
        completions = tokenizer.encode([record.completion for record in part])
        for question, completion in zip(questions, completions, strict=True):
            whole = [*question, *completion, tokenizer.end_id]
            size = min(len(whole), max_length)
            ids.extend(whole[:size])
            lengths.append(size)
            masked.append(min(max(len(question) - 1, 0), size) if completion_only else 0)
            cut.append(len(whole) - size)
    return Tokens.of_columns(*map(_tensor, (ids, lengths, masked, cut)))


def _tensor(column: array[int]) -> Any:
    return torch.frombuffer(column, dtype=torch.int32) if column else torch.empty(0, dtype=torch.int32)
