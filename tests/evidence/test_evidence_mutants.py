"""Spoiled bundles: none is accepted, and taking evidence away never improves the answer.

The large counts are made by ``benchmarks/mutate_bundles.py``; the same in small stands here.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ongpu.domain.verdict import Outcome
from ongpu.evidence.check import Answer, check
from ongpu.evidence.show import render

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

# The bundle is made once for all examples on purpose: every example spoils a copy and puts it back.
ONE_BUNDLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
Records = list[dict[str, Any]]


@pytest.fixture
def signed(samples: Samples) -> Path:
    return samples.bundle("signed", signed=True)


@ONE_BUNDLE
@given(data=st.data())
def test_no_changed_byte_is_accepted(signed: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(signed.iterdir())))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != before[at]))
    path.write_bytes(before[:at] + bytes([byte]) + before[at + 1 :])
    try:
        assert check(signed).answer is Answer.REFUSED
    finally:
        path.write_bytes(before)


@ONE_BUNDLE
@given(data=st.data())
def test_no_cut_or_insertion_is_accepted(signed: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(signed.iterdir())))
    before = path.read_bytes()
    begin = data.draw(st.integers(0, len(before)))
    end = data.draw(st.integers(begin, len(before)))
    after = before[:begin] + data.draw(st.binary(max_size=20)) + before[end:]
    if after == before:
        return
    path.write_bytes(after)
    try:
        assert check(signed).answer is Answer.REFUSED
    finally:
        path.write_bytes(before)


def test_every_third_byte_of_an_unsigned_manifest_counts(samples: Samples) -> None:
    folder = samples.bundle("a")
    path = folder / "manifest.json"
    before = path.read_bytes()
    for at in range(0, len(before), 3):
        path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        assert check(folder).answer is Answer.REFUSED, at


def test_taking_any_file_away_is_refused(samples: Samples) -> None:
    for signed in (False, True):
        folder = samples.bundle(f"a{signed}", signed=signed)
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            path.unlink()
            assert check(folder).answer is Answer.REFUSED, path.name
            path.write_bytes(data)
        assert check(folder).answer is Answer.ACCEPTED


def leave_out(kept: Callable[[dict[str, Any]], bool]) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        records[:] = [one for one in records if kept(one)]

    return edit


def reductions(records: Records) -> Iterator[tuple[str, Callable[[Records], None]]]:
    """Every record, every pair of records, and every kind left out."""
    seqs = [one["seq"] for one in records]
    for gone in [*itertools.combinations(seqs, 1), *itertools.combinations(seqs, 2)]:
        yield str(gone), leave_out(lambda one, gone=gone: one["seq"] not in gone)  # type: ignore[misc]
    for kind in sorted({one["kind"] for one in records}):
        yield kind, leave_out(lambda one, kind=kind: one["kind"] != kind)  # type: ignore[misc]


def test_a_forger_who_leaves_observations_out_proves_nothing(samples: Samples) -> None:
    """Chained and sealed again each time, so that nothing but the rules of the verdict stands in the way."""
    folder = samples.bundle("a")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    records = [json.loads(line) for line in files["journal.jsonl"].splitlines()]
    assert check(folder).outcome is Outcome.PROVEN
    tried = 0
    for name, edit in reductions(records):
        try:
            samples.forge(folder, edit)
        except IndexError:
            continue  # nothing was left to seal
        assert check(folder).outcome is not Outcome.PROVEN, name
        (folder / "journal.jsonl").write_bytes(files["journal.jsonl"])
        tried += 1
    assert tried > 300
    samples.forge(folder)
    assert check(folder).outcome is Outcome.PROVEN, "the forger's tool itself must not be what fails"


def test_an_unproven_run_cannot_be_improved_by_leaving_out(samples: Samples) -> None:
    for name, options in (("interrupted", {"ended": "interrupted"}), ("rehearsed", {"simulated": True})):
        folder = samples.bundle(name, **options)
        journal = folder / "journal.jsonl"
        before = journal.read_bytes()
        for seq in range(1, before.count(b"\n")):
            samples.forge(folder, leave_out(lambda one, seq=seq: one["seq"] != seq))  # type: ignore[misc]
            assert check(folder).outcome is not Outcome.PROVEN
            journal.write_bytes(before)


def test_the_whole_of_another_run_is_another_run(samples: Samples) -> None:
    first, second = samples.bundle("a", seed=1, signed=True), samples.bundle("b", seed=2, signed=True)
    ids = {check(one).run_id for one in (first, second)}
    assert len(ids) == 2
    # Copied elsewhere, a bundle stays what it is: only a nonce tells a copy from an answer.
    elsewhere = Path(shutil.copytree(first, samples.root / "elsewhere"))
    assert check(elsewhere).run_id == check(first).run_id
    assert check(elsewhere, nonce="0" * 32).answer is Answer.REFUSED


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["train", "cuda:0", "run.end", "completed", "proven", "unknown-cause", "-1", "GPU-x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["pid", "uuid", "t", "n"]), inner),
    max_leaves=6,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from places(child, (*path, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from places(child, (*path, number))


def put(value: Any, path: tuple[str | int, ...], new: object) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


@pytest.fixture
def plain_bundle(samples: Samples) -> Path:
    return samples.bundle("a")


@ONE_BUNDLE
@given(data=st.data())
def test_a_forged_journal_of_any_shape_is_answered(samples: Samples, plain_bundle: Path, data: st.DataObject) -> None:
    """Chained and sealed again with any value anywhere: the checker answers, whatever the judge meets."""
    journal = plain_bundle / "journal.jsonl"
    before = journal.read_bytes()
    records = [json.loads(line) for line in before.splitlines()]
    found = data.draw(st.lists(st.sampled_from(list(places([one["data"] for one in records]))), min_size=1, max_size=3))
    news = [data.draw(ANY_JSON) for _ in found]

    def edit(records: Records) -> None:
        bodies = [one["data"] for one in records]
        for path, new in zip(found, news, strict=True):
            try:
                put(bodies, path, new)
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change took this place away
        for record, body in zip(records, bodies, strict=True):
            record["data"] = body if isinstance(body, dict) else {"was": body}

    try:
        samples.forge(plain_bundle, edit)
        report = check(plain_bundle)
        assert report.exit_status in {0, 1, 3}
        assert render(report)
    finally:
        journal.write_bytes(before)


@ONE_BUNDLE
@given(data=st.data())
def test_a_manifest_of_any_shape_is_refused(plain_bundle: Path, data: st.DataObject) -> None:
    path = plain_bundle / "manifest.json"
    before = path.read_bytes()
    value = json.loads(before)
    put(value, data.draw(st.sampled_from(list(places(value)))), data.draw(ANY_JSON))
    after = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
    path.write_bytes(after)
    try:
        assert (check(plain_bundle).answer is Answer.ACCEPTED) == (after == before)
    finally:
        path.write_bytes(before)
