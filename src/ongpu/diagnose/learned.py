"""The last stage: the cause whose words, in labeled logs, the end of this log has.

A logistic regression over the words and pairs of words of the last lines. It is asked only where neither rules nor
meanings know the log, names a cause only well above the others, never as more than inferred, and shows its words.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ongpu.catalog.learned import LearnedWords
from ongpu.diagnose.likely import SpeakingLine
from ongpu.diagnose.match import Hit
from ongpu.domain.verdict import Cause

# Of 16 causes: by chance each has 0.06.
_LEAST_SHARE: Final = 0.35
# A word or two go with anything.
_FEWEST_WORDS: Final = 4
_WORDS_A_LINE: Final = 80
_SHOWN: Final = 3
_DIGIT: Final = re.compile("[1-9]")
_WORD: Final = re.compile(r"[a-z_][a-z_0]{2,30}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The cause, its share of all causes (0 to 1), the words that spoke most for it, and their lines."""

    cause: Cause
    share: float
    words: tuple[str, ...]
    hits: tuple[Hit, ...]


def words_of(line: str) -> set[str]:
    """The words, and the pairs of neighbors, of a line in lower case; digits are ``0``."""
    words = _WORD.findall(_DIGIT.sub("0", line))[:_WORDS_A_LINE]
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


def weighed(lines: Sequence[SpeakingLine]) -> dict[str, tuple[float, Hit]]:
    """Every word with the weight of the line in which it weighs most, and that line."""
    found: dict[str, tuple[float, Hit]] = {}
    for line in lines:
        weight = line.weight()
        for word in words_of(line.lowered):
            if word not in found or found[word][0] <= weight:
                found[word] = (weight, line.hit)
    return found


def learned(lines: Sequence[SpeakingLine], model: LearnedWords) -> Learned | None:
    """What the words of the lines go with; ``None`` where that is nothing clear, or no failure."""
    words = {word: told for word, told in weighed(lines).items() if word in model.weights}
    if len(words) < _FEWEST_WORDS:
        return None
    length = math.sqrt(sum(weight * weight for weight, _ in words.values()))
    points = dict(model.before)
    spoke: defaultdict[Cause, dict[str, float]] = defaultdict(dict)
    for word, (weight, _) in words.items():
        for cause, given in model.weights[word].items():
            points[cause] += given * weight / length
            spoke[cause][word] = given * weight
    best = max(points, key=lambda cause: points[cause])
    share = 1 / sum(math.exp(value - points[best]) for value in points.values())
    failed = any(line.failing for line in lines) or best is Cause.SILENT_CPU
    if share < _LEAST_SHARE or best in {Cause.HEALTHY, Cause.UNDETERMINED} or not failed:
        return None
    loudest = sorted(spoke[best], key=lambda word: (-spoke[best][word], word))[:_SHOWN]
    hits = {words[word][1].line: words[word][1] for word in loudest}
    return Learned(cause=best, share=share, words=tuple(loudest), hits=tuple(hits.values()))
