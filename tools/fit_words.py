"""Fit the words of ``src/ongpu/catalog/learned.csv`` to logs with a known cause.

Usage: ``python tools/fit_words.py [--logs FOLDER ...]``. The cases of the tests are always taken. A folder holds
``NAME.log`` files and a ``labels.tsv`` with lines of NAME, a tab, and the causes that may be meant, separated by ``|``.
Other people's logs are not part of this repository: without them the words are fewer, and the weights others.

A multinomial logistic regression with a penalty on the squares of the weights; small weights and words met in fewer
than three logs are left out. The same logs give the same file on one machine; another one may round a weight otherwise.
"""

from __future__ import annotations

import argparse
import collections
import csv
import io
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ongpu.catalog.causes import load_causes
from ongpu.catalog.learned import BEFORE_ANY_WORD
from ongpu.catalog.terms import load_terms
from ongpu.diagnose.learned import weighed
from ongpu.diagnose.likely import speaking
from ongpu.diagnose.match import RuleIndex, scan
from ongpu.domain.verdict import Cause

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "diagnose" / "cases"
TARGET = ROOT / "src" / "ongpu" / "catalog" / "learned.csv"
CAUSES = tuple(Cause)
FEWEST_LOGS = 3
SMALLEST_WEIGHT = 0.3
PENALTY = 0.1
# A log of other people counts more than a case of ours, which is one of many made alike.
WEIGHT_OF_A_LOG = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeled:
    """The words of a log with their weights, the causes that may be meant, and how much it counts."""

    words: Mapping[str, float]
    causes: tuple[Cause, ...]
    weight: float


def words_in(log: bytes) -> dict[str, float]:
    """The words the last stage would read of a log."""
    tail = scan(log, RuleIndex(())).tail
    lines = speaking(tail, load_terms(), hypothetical=load_causes().hypothetical)
    return {word: weight for word, (weight, _) in weighed(lines).items()}


def labeled(folders: list[Path]) -> Iterator[Labeled]:
    """The cases, then the logs of the folders."""
    for path in sorted(CASES.glob("*.toml")):
        for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]:
            yield Labeled(words=words_in(case["log"].encode()), causes=(Cause(case["cause"]),), weight=1)
    for folder in folders:
        for line in (folder / "labels.tsv").read_text(encoding="utf-8").splitlines():
            name, causes = line.split("\t")[:2]
            meant = tuple(Cause(cause.strip()) for cause in causes.split("|"))
            yield Labeled(words=words_in((folder / f"{name}.log").read_bytes()), causes=meant, weight=WEIGHT_OF_A_LOG)


def fit(logs: list[Labeled]) -> tuple[list[str], list[list[float]], list[float]]:
    """The words, their weight for each cause, and what each cause has before any word."""
    met = collections.Counter(word for log in logs for word in log.words)
    vocabulary = sorted(word for word, count in met.items() if count >= FEWEST_LOGS)
    place = {word: index for index, word in enumerate(vocabulary)}
    rows, columns, values = [], [], []
    targets = torch.zeros(len(logs), len(CAUSES), dtype=torch.float64)
    for row, log in enumerate(logs):
        kept = {place[word]: weight for word, weight in log.words.items() if word in place}
        length = math.sqrt(sum(weight * weight for weight in kept.values())) or 1
        rows += [row] * len(kept)
        columns += list(kept)
        values += [weight / length for weight in kept.values()]
        for cause in log.causes:
            targets[row, CAUSES.index(cause)] = log.weight / len(log.causes)
    shape = (len(logs), len(vocabulary))
    words = torch.sparse_coo_tensor([rows, columns], values, shape, dtype=torch.float64, check_invariants=True)
    weights = torch.zeros(len(vocabulary), len(CAUSES), dtype=torch.float64, requires_grad=True)
    before = torch.zeros(len(CAUSES), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights, before], max_iter=60)

    def loss() -> torch.Tensor:
        search.zero_grad()
        shares = torch.log_softmax(torch.sparse.mm(words, weights) + before, dim=1)
        value = -(targets * shares).sum() + PENALTY * weights.square().sum()
        value.backward()
        return value

    search.step(loss)
    return vocabulary, weights.detach().tolist(), before.detach().tolist()


def as_csv(vocabulary: list[str], weights: list[list[float]], before: list[float]) -> str:
    """The file: words in order, for each the causes it has a weight for, heaviest first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["words", "weights"])
    writer.writerow([BEFORE_ANY_WORD, _shown(before, smallest=0)])
    for word, row in zip(vocabulary, weights, strict=True):
        if shown := _shown(row, smallest=SMALLEST_WEIGHT):
            writer.writerow([word, shown])
    return text.getvalue()


def _shown(row: list[float], *, smallest: float) -> str:
    given = sorted(zip(row, CAUSES, strict=True), key=lambda one: -one[0])
    return "; ".join(f"{cause.value} {weight:.2f}" for weight, cause in given if abs(weight) >= smallest)


def main() -> None:
    """Write the file and say of how many logs it is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="*", default=[])
    parser.add_argument("--to", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logs = list(labeled(options.logs))
    text = as_csv(*fit(logs))
    options.to.write_text(text, encoding="utf-8")
    print(f"{len(logs)} logs, {text.count(chr(10)) - 2} words, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
