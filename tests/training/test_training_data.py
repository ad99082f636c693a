"""The built-in data set, bad lines, tokens and the data order."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ongpu.errors import UsageError
from ongpu.training import dataset, records
from ongpu.training.batches import Stream
from ongpu.training.data import IGNORED, BytePairTokenizer, encode
from ongpu.training.records import BadRecordError, Record

GOOD = {
    "trace_version": "1.0",
    "prompt": "What is 1 + 1?",
    "final_answer": "2",
    "steps": [{"i": 0, "type": "compute", "content": "1 + 1 = 2."}],
    "meta": {"dataset": "mine", "category": "sum"},
}


def line(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_the_built_in_data_set_has_its_digest_and_its_counts() -> None:
    content = dataset.jsonl()
    assert hashlib.sha256(content).hexdigest() == dataset.SHA256
    made = [json.loads(one) for one in content.decode().splitlines()]
    counts = collections.Counter(one["meta"]["category"] for one in made)
    assert counts == {"reasoning": 385, "synthetic": 110, "golden_style": 35, "edge_case": 20}
    assert all(set(one) == {"trace_version", "prompt", "final_answer", "steps", "meta"} for one in made)
    assert len({one["meta"]["id"] for one in made}) == 550
    assert len(records.parse(content, name="x", skip_bad=False).records) == 550


def test_answers_follow_from_the_last_compute_step() -> None:
    for one in dataset.records():
        steps, answer = one["steps"], str(one["final_answer"])
        assert isinstance(steps, list)
        assert any(answer.split(maxsplit=1)[0] in step["content"] for step in steps), one


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON at column"),
        (b"[]", "not a JSON object"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' + b"1" * 5000 + b"}", "a number of too many digits"),
        (b'{"a":1,"a":2}', "the key 'a' is given twice"),
        (b'{"trace_version":"1.0"}', "the key 'prompt' is missing"),
        (line(trace_version="2.0"), "trace_version is '2.0'"),
        (line(prompt=" "), "prompt is not a text"),
        (line(prompt="\ud800"), "prompt has half of a surrogate pair"),
        (line(final_answer=3), "final_answer is not a text"),
        (line(meta=[]), "meta is not an object"),
        (line(steps=[]), "steps is not a list"),
        (line(steps=["x"]), "step 0 is not an object"),
        (line(steps=[{"i": 1, "type": "a", "content": "b"}]), "step 0 has i 1"),
        (line(steps=[{"i": False, "type": "a", "content": "b"}]), "step 0 has i False"),
        (line(steps=[{"i": 0, "content": "b"}]), "step 0 has no type"),
        (line(steps=[{"i": 0, "type": "a"}]), "step 0: content is not a text"),
    ],
)
def test_a_bad_line_is_named_by_number_and_reason_or_skipped_with_a_count(content: bytes, reason: str) -> None:
    whole = line() + b"\r\n\n" + content + b"\n" + line() + b"\n"
    with pytest.raises(UsageError) as caught:
        records.parse(whole, name="my.jsonl", skip_bad=False)
    assert caught.value.message.startswith(f"my.jsonl, line 3: {reason}")
    assert "--on-bad-record skip" in caught.value.next_step
    found = records.parse(whole, name="my.jsonl", skip_bad=True)
    assert len(found.records) == 2
    assert [one.number for one in found.skipped] == [3]


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "bad.jsonl").write_bytes(b"x\ny\n")
    for name, skip, word in [
        (str(tmp_path), False, "is a folder"),
        (str(tmp_path / "none"), False, "There is no data set"),
        (str(tmp_path / "empty.jsonl"), False, "has no record: it is empty"),
        (str(tmp_path / "bad.jsonl"), True, "all 2 lines are bad"),
        ("a\0b", False, "cannot be read"),
    ]:
        with pytest.raises(UsageError, match=word):
            records.load(name, skip_bad=skip)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert len(records.parse(b"\xef\xbb\xbf" + line(), name="x", skip_bad=False).records) == 1


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_reason(content: bytes) -> None:
    try:
        assert isinstance(records.parse_line(content), Record)
    except BadRecordError as error:
        assert str(error)


def _some() -> tuple[tuple[Record, ...], BytePairTokenizer]:
    found = records.load(dataset.NAME, skip_bad=False).records[:60]
    texts = [one.question + one.completion for one in found]
    return found, BytePairTokenizer.from_texts(texts, vocab_size=600)


def test_the_same_texts_give_the_same_tokenizer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _some()[1].save(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_labels_are_the_next_token_and_cutting_is_counted() -> None:
    found, tokenizer = _some()
    whole = encode(found, tokenizer, max_length=10_000, completion_only=False)
    cut = encode(found, tokenizer, max_length=64, completion_only=False)
    for long, short in zip(whole, cut, strict=True):
        assert long.ids[-1] == tokenizer.end_id
        assert long.labels == (*long.ids[1:], IGNORED)
        assert short.ids == long.ids[:64]
        assert short.labels == (*short.ids[1:], IGNORED)
        assert short.cut_tokens == len(long.ids) - len(short.ids)
    assert any(one.cut_tokens for one in cut)


def test_a_masked_prompt_leaves_exactly_the_completion() -> None:
    found, tokenizer = _some()
    for record, example in zip(found, encode(found, tokenizer, max_length=10_000, completion_only=True), strict=True):
        learned = [label for label in example.labels if label != IGNORED]
        assert learned == [*tokenizer.encode([record.completion])[0], tokenizer.end_id]


def test_a_batch_is_filled_on_the_right() -> None:
    found, tokenizer = _some()
    examples = encode(found, tokenizer, max_length=64, completion_only=False)
    batches = Stream(examples, seed=1, batch_size=4, micro_steps=1, max_steps=2, packed=False, fill=tokenizer.end_id)
    (batch,) = batches.step(2)
    assert batch.ids.dtype == torch.int64
    assert batch.ids.shape == batch.labels.shape == (4, 64)
    for row, index in enumerate(batch.records):
        size = len(examples[index].ids)
        assert tuple(batch.ids[row, :size].tolist()) == examples[index].ids
        assert set(batch.ids[row, size:].tolist()) <= {tokenizer.end_id}
        assert set(batch.labels[row, size:].tolist()) <= {IGNORED}
    assert batch.targets == int((batch.labels != IGNORED).sum())
