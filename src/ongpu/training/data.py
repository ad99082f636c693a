"""From records to tokens: a tokenizer, token ids, labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ongpu.errors import WorkError
from ongpu.training.records import Record

IGNORED: Final = -100
"""The label of a position that is not learned from (``cross_entropy``'s own default)."""
END_OF_TEXT: Final = "<|endoftext|>"


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
    def from_texts(cls, texts: Sequence[str], *, vocab_size: int) -> BytePairTokenizer:
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

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._inner.get_vocab().values())

    @property
    def end_id(self) -> int:
        """The id of the end-of-text token."""
        return self._end_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with no special tokens added."""
        return [list(one.ids) for one in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        (folder / "tokenizer.json").write_text(self._inner.to_str(pretty=False), encoding="utf-8")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._end,
            "eos_token": self._end,
            "unk_token": self._end,
            "pad_token": self._end,
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One record as tokens. ``labels[i]`` is the token that follows ``ids[i]``, or ``IGNORED``."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut_tokens: int = 0

    @property
    def targets(self) -> int:
        """Labels that are learned from."""
        return sum(label != IGNORED for label in self.labels)


def encode(
    records: Sequence[Record], tokenizer: Tokenizer, *, max_length: int, completion_only: bool
) -> tuple[Example, ...]:
    """Tokens of every record, cut to ``max_length`` from the right.

    Prompt and completion are encoded apart, so the border that a masked prompt needs is exact.
    """
    questions = tokenizer.encode([record.question for record in records])
    completions = tokenizer.encode([record.completion for record in records])
    examples = []
    for question, completion in zip(questions, completions, strict=True):
        whole = [*question, *completion, tokenizer.end_id]
        ids = whole[:max_length]
        labels = [*whole[1 : len(ids)], IGNORED]
        if completion_only:
            masked = min(len(question) - 1, len(labels))
            labels[:masked] = [IGNORED] * masked
        examples.append(Example(ids=tuple(ids), labels=tuple(labels), cut_tokens=len(whole) - len(ids)))
    return tuple(examples)
