"""``dev-reasoning-v2``: 550 short reasoning traces, generated here, the same bytes everywhere.

One JSON object a line::

    {"trace_version":"1.0","prompt":"...","final_answer":"...","steps":[{"i":0,"type":"observe","content":"..."}, ...],
     "meta":{"dataset":"dev-reasoning-v2","category":"reasoning","id":"dev-reasoning-v2-0000","kind":"rate"}}

385 ``reasoning`` (word problems), 110 ``synthetic`` (bare procedures), 35 ``golden_style`` (longer, with a check
step) and 20 ``edge_case`` (other scripts, quotes, code, long or tiny numbers), in one seeded order. Every answer is
computed, none is written down. ``jsonl()`` refuses to hand out bytes whose digest is not ``SHA256``: Python promises
the sequence of ``random.Random(seed).random()`` for ever, and only that method is used here.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ongpu.errors import WorkError

NAME: Final = "dev-reasoning-v2"
SEED: Final = 42
COUNTS: Final = {"reasoning": 385, "synthetic": 110, "golden_style": 35, "edge_case": 20}
SHA256: Final = "e853afa918ad730d8bb8cfa7923dcea57a3970527cd8ba41bd99dd5af5041f66"

_PEOPLE: Final = ("Ana", "Bo", "Chidi", "Dilan", "Elif", "Femi", "Gita", "Hanna", "Ivo", "Juno", "Kofi", "Lena")
_GOODS: Final = ("apples", "bolts", "bricks", "candles", "cards", "cups", "labels", "lamps", "pens", "stamps", "tiles")
_PLACES: Final = (
    "archive",
    "bakery",
    "depot",
    "harbor",
    "library",
    "market",
    "museum",
    "orchard",
    "studio",
    "workshop",
)
_THEREFORE: Final = ("So", "Hence", "Therefore", "It follows that", "This means that")


class _Dice:
    """Seeded choices built on ``random.Random.random`` alone, whose sequence Python keeps across versions."""

    def __init__(self, seed: int) -> None:
        self._next = random.Random(seed).random

    def number(self, low: int, high: int) -> int:
        return low + int(self._next() * (high - low + 1))

    def one(self, items: Sequence[str]) -> str:
        return items[self.number(0, len(items) - 1)]

    def some(self, items: Sequence[str], count: int) -> list[str]:
        left = list(items)
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(count)]

    def shuffled(self, items: Sequence[dict[str, object]]) -> list[dict[str, object]]:
        left = list(items)
        for last in range(len(left) - 1, 0, -1):
            other = self.number(0, last)
            left[last], left[other] = left[other], left[last]
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    kind: str
    prompt: str
    answer: str
    steps: tuple[tuple[str, str], ...]


def _stock(dice: _Dice) -> _Trace:
    who, goods, place = dice.one(_PEOPLE), dice.one(_GOODS), dice.one(_PLACES)
    per_day, days, given = dice.number(12, 90), dice.number(3, 14), dice.number(2, 11)
    made = per_day * days
    return _Trace(
        kind="stock",
        prompt=f"{who} packs {per_day} {goods} a day at the {place} for {days} days and gives {given} of them away. "
        f"How many {goods} are left?",
        answer=f"{made - given} {goods}",
        steps=(
            ("observe", f"{per_day} {goods} a day, {days} days, {given} given away."),
            ("compute", f"{dice.one(_THEREFORE)} {per_day} times {days} makes {made} {goods}."),
            ("compute", f"{made} minus {given} is {made - given}."),
        ),
    )


def _journey(dice: _Dice) -> _Trace:
    who, start, goal = dice.one(_PEOPLE), *dice.some(_PLACES, 2)
    speed, hours, more = dice.number(20, 95), dice.number(2, 9), dice.number(5, 60)
    first = speed * hours
    return _Trace(
        kind="journey",
        prompt=f"{who} rides from the {start} to the {goal}: {hours} hours at {speed} kilometers an hour, then {more} "
        "kilometers more. How long is the whole way?",
        answer=f"{first + more} kilometers",
        steps=(
            ("observe", f"Speed {speed}, time {hours}, and {more} kilometers at the end."),
            ("compute", f"Way is speed times time: {speed} times {hours} is {first} kilometers."),
            ("compute", f"{dice.one(_THEREFORE)} the whole way is {first} plus {more}, which is {first + more}."),
        ),
    )


def _order(dice: _Dice) -> _Trace:
    first, second, third, fourth = dice.some(_PEOPLE, 4)
    return _Trace(
        kind="order",
        prompt=f"{first} arrives before {second}. {third} arrives after {second} but before {fourth}. Who is third?",
        answer=third,
        steps=(
            ("observe", f"{first} comes before {second}."),
            ("infer", f"{third} stands between {second} and {fourth}."),
            (
                "infer",
                f"{dice.one(_THEREFORE)} the order is {first}, {second}, {third}, {fourth}, and {third} is third.",
            ),
        ),
    )


def _shares(dice: _Dice) -> _Trace:
    left, right = dice.some(_GOODS, 2)
    place, a, b, part = dice.one(_PLACES), dice.number(2, 9), dice.number(2, 9), dice.number(3, 20)
    total = (a + b) * part
    return _Trace(
        kind="shares",
        prompt=f"In the {place} {left} and {right} stand in the ratio {a} to {b}, {total} pieces in all. "
        f"How many are {right}?",
        answer=f"{b * part} {right}",
        steps=(
            ("observe", f"The ratio is {a} to {b} and the total is {total}."),
            ("compute", f"There are {a + b} equal parts, and each has {total} divided by {a + b}, that is {part}."),
            ("compute", f"{dice.one(_THEREFORE)} {right} are {b} parts: {b} times {part} is {b * part}."),
        ),
    )


def _sum_product(dice: _Dice) -> _Trace:
    a, b, c = dice.number(11, 99), dice.number(11, 99), dice.number(2, 9)
    return _Trace(
        kind="sum_product",
        prompt=f"Compute ({a} + {b}) * {c}.",
        answer=str((a + b) * c),
        steps=(
            ("compute", f"{a} + {b} = {a + b}."),
            ("compute", f"{a + b} * {c} = {(a + b) * c}."),
        ),
    )


def _remainder(dice: _Dice) -> _Trace:
    a, b = dice.number(100, 999), dice.number(3, 19)
    return _Trace(
        kind="remainder",
        prompt=f"What is the remainder of {a} divided by {b}?",
        answer=str(a % b),
        steps=(
            ("compute", f"{b} fits into {a} {a // b} times, which uses {a // b * b}."),
            ("compute", f"{a} - {a // b * b} = {a % b}."),
        ),
    )


def _sequence(dice: _Dice) -> _Trace:
    start, gap, place = dice.number(1, 30), dice.number(2, 12), dice.number(6, 15)
    shown = ", ".join(str(start + gap * i) for i in range(4))
    value = start + gap * (place - 1)
    return _Trace(
        kind="sequence",
        prompt=f"The sequence {shown}, ... goes on in the same way. What is its member number {place}?",
        answer=str(value),
        steps=(
            ("observe", f"Each member is {gap} more than the one before."),
            ("compute", f"Member {place} is {start} + {gap} * {place - 1} = {value}."),
        ),
    )


def _golden(dice: _Dice) -> _Trace:
    who, goods, place = dice.one(_PEOPLE), dice.one(_GOODS), dice.one(_PLACES)
    boxes, each, price, paid = dice.number(4, 30), dice.number(6, 24), dice.number(2, 9), 10_000
    pieces = boxes * each
    cost = pieces * price
    return _Trace(
        kind="golden",
        prompt=f"{who} orders {boxes} boxes for the {place}. Each box holds {each} {goods}, and each of the "
        f"{goods} costs {price} coins. {who} pays with {paid} coins. How many coins come back? "
        "Show each step and check the result.",
        answer=f"{paid - cost} coins",
        steps=(
            ("observe", f"Known: {boxes} boxes, {each} {goods} in each, {price} coins for one, {paid} coins paid."),
            ("compute", f"The number of {goods} is {boxes} times {each}, which is {pieces}."),
            ("compute", f"They cost {pieces} times {price}, which is {cost} coins."),
            ("compute", f"{dice.one(_THEREFORE)} {paid} minus {cost} leaves {paid - cost} coins."),
            ("check", f"{paid - cost} plus {cost} is {paid}, the sum that was paid, so the answer holds."),
        ),
    )


def _edge(dice: _Dice) -> _Trace:
    a, b = dice.number(2, 9), dice.number(2, 9)
    huge = int(f"{a}{b}" * 12)
    cases = (
        ("script", f"¿Cuánto es {a} más {b}? Responde con un número.", str(a + b), f"{a} más {b} es {a + b}."),
        ("script", f"{a} に {b} を足すといくつですか。", str(a + b), f"{a} + {b} = {a + b}。"),
        ("script", f"Сколько будет {a} умножить на {b}?", str(a * b), f"{a} \u00d7 {b} = {a * b}."),
        ("emoji", f"Count the stars: {'⭐' * a} and {'⭐' * b}.", str(a + b), f"{a} and {b} make {a + b} ⭐."),
        ("quotes", f'How many letters has the word "{"x" * a}\\n"?', str(a), f'"{"x" * a}" has {a} letters.'),
        ("code", f"```python\nprint({a} ** {b})\n```\nWhat is printed?", str(a**b), f"{a} to the power {b} is {a**b}."),
        ("long_number", f"Add {b} to {huge}.", str(huge + b), f"{huge} plus {b} is {huge + b}."),
        ("zero", f"{a} minus {a} is what?", "0", "A number minus itself is 0."),
        ("negative", f"What is {a} minus {a + b}?", str(-b), f"{a} minus {a + b} is {-b}."),
        ("spaces", f"  {a}\t+\n{b}  =  ?", str(a + b), f"Without the spaces: {a}+{b}={a + b}."),
    )
    kind, prompt, answer, step = cases[dice.number(0, len(cases) - 1)]
    return _Trace(kind=kind, prompt=prompt, answer=answer, steps=(("compute", step),))


_KINDS: Final[dict[str, tuple[Callable[[_Dice], _Trace], ...]]] = {
    "reasoning": (_stock, _journey, _order, _shares),
    "synthetic": (_sum_product, _remainder, _sequence),
    "golden_style": (_golden,),
    "edge_case": (_edge,),
}


def records() -> list[dict[str, object]]:
    """The 550 records, in order, as plain objects."""
    dice = _Dice(SEED)
    made: list[dict[str, object]] = []
    for category, count in COUNTS.items():
        kinds = _KINDS[category]
        for index in range(count):
            trace = kinds[index % len(kinds)](dice)
            steps = [{"i": i, "type": kind, "content": text} for i, (kind, text) in enumerate(trace.steps)]
            meta = {"dataset": NAME, "category": category, "kind": trace.kind}
            made.append(
                {
                    "trace_version": "1.0",
                    "prompt": trace.prompt,
                    "final_answer": trace.answer,
                    "steps": steps,
                    "meta": meta,
                }
            )
    ordered = dice.shuffled(made)
    return [{**one, "meta": {**_meta(one), "id": f"{NAME}-{i:04d}"}} for i, one in enumerate(ordered)]


def _meta(record: dict[str, object]) -> dict[str, object]:
    meta = record["meta"]
    assert isinstance(meta, dict)
    return meta


def jsonl() -> bytes:
    """The dataset's bytes; :class:`WorkError` where this Python generates others than those of ``SHA256``."""
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in records()]
    content = ("\n".join(lines) + "\n").encode("utf-8")
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise WorkError(
            f"The generated {NAME} has the SHA-256 {digest}, not {SHA256}: this Python generates another data set.",
            next_step="Report this Python's version, and give --dataset a file meanwhile.",
        )
    return content
