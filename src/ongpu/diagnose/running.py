"""Work that goes on, by the shape of its lines: the same line again and again, its numbers running on.

Trainers, solvers and samplers print what they like, but most print one line a step: a counter that grows beside a
measured value. Nothing here looks at what the words mean, but for those of waiting and of fetching.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from ongpu.diagnose.match import Hit

_LINES_NEEDED: Final = 3
# The shell's prompt, or a line or two about a checkpoint, may stand after the last step.
_LINES_AFTER: Final = 3
_LONGEST: Final = 400
_TIME: Final = re.compile(r"\d{4}[-/]\d\d[-/]\d\d|\d{1,3}:\d\d(?::\d\d)?(?:[.,]\d{1,9})?")
_NUMBER: Final = re.compile(r"(?<![\w.])\d{1,12}(?:\.\d{1,12})?(?:e-?\d{1,3})?")
_NO_WORK: Final = (
    "wait", "retry", "attempt", "timeout", "timed out", "download", "fetch", "loading", "connect", "heartbeat", "sleep",
    "mib /", "frame #", "channel", "xid", "nvrm", "kernel:", "warn", "install", "collecting", "extract", "upload",
    "checking", "compil", "building", "nan",
)  # fmt: skip


def runs_on(tail: Sequence[Hit]) -> tuple[Hit, ...]:
    """The last lines of one shape whose numbers run on up to the end; empty where there are none.

    :param tail: the last lines of the log, in their order.
    """
    shapes: defaultdict[str, list[tuple[Hit, list[float]]]] = defaultdict(list)
    for hit in tail:
        text = _TIME.sub("", hit.shown(limit=_LONGEST).lower())
        found = _NUMBER.findall(text)
        measured = any("." in number for number in found)
        if measured and len(found) > 1 and not any(word in text for word in _NO_WORK):
            shapes[_NUMBER.sub("0", text)].append((hit, [float(number) for number in found]))
    near_the_end = {hit.line for hit in tail[-_LINES_AFTER:]}
    for lines in shapes.values():
        last = lines[-_LINES_NEEDED:]
        if len(last) == _LINES_NEEDED and last[-1][0].line in near_the_end and _run([row for _, row in last]):
            return tuple(hit for hit, _ in last)
    return ()


def _run(rows: Sequence[Sequence[float]]) -> bool:
    """Whether a counter grows from row to row, and another number changes."""
    columns = list(zip(*rows, strict=True))
    growing = [all(one < other for one, other in pairwise(column)) for column in columns]
    changing = [len(set(column)) > 1 for column in columns]
    return any(growing) and sum(changing) > 1
