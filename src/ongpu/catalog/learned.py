"""Words and the causes they went with in labeled logs: data of ``learned.csv``, fitted by ``tools/fit_words.py``.

They are asked last, where neither a rule nor a meaning of ``terms.toml`` knows a log. A weight is no judgment, unlike
those of ``terms.toml``: it is what a multinomial logistic regression, held small, gives a word or a pair of words.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from ongpu.domain.verdict import Cause

# The row of what a cause has before any word is read.
BEFORE_ANY_WORD: Final = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedWords:
    """``weights`` by word or pair of words (digits as ``0``), ``before`` what each cause has without any."""

    before: Mapping[Cause, float]
    weights: Mapping[str, Mapping[Cause, float]]


def parse_learned(data: bytes) -> LearnedWords:
    """Read ``learned.csv``. Raises :class:`ValueError` naming the row that is wrong."""
    rows = csv.reader(data.decode("utf-8").splitlines())
    if next(rows, None) != ["words", "weights"]:
        raise ValueError("learned.csv: needs the columns words, weights")
    weights: dict[str, Mapping[Cause, float]] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or row[0] != row[0].lower() or row[0] in weights:
            raise ValueError(f"learned.csv: row {number}: needs words in lower case, once, and their weights")
        weights[row[0]] = _weights(row[1], number)
    before = weights.pop(BEFORE_ANY_WORD, {})
    if set(before) != set(Cause):
        raise ValueError(f"learned.csv: {BEFORE_ANY_WORD} needs every cause")
    return LearnedWords(before=before, weights=weights)


@functools.cache
def load_learned() -> LearnedWords:
    """The shipped words, read once."""
    return parse_learned(resources.files("ongpu.catalog").joinpath("learned.csv").read_bytes())


def _weights(text: str, number: int) -> Mapping[Cause, float]:
    try:
        pairs = [one.split(" ") for one in text.split("; ")]
        return {Cause(cause): float(weight) for cause, weight in pairs}
    except ValueError as error:
        raise ValueError(f"learned.csv: row {number}: {error}") from error
