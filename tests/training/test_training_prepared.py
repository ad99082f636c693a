"""Data prepared once: found again by content, made again where that is damaged, and never the reason a run ends."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from ongpu.training import dataset, prepared, records, store
from ongpu.training.config import Config
from ongpu.training.data import BytePairTokenizer, Tokens
from ongpu.training.prepared import Prepared
from ongpu.training.store import Store


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Data that is large enough to be kept; the last line is bad."""
    path = tmp_path / "large.jsonl"
    content = dataset.jsonl()
    path.write_bytes(content * (1 + prepared.LEAST_BYTES // len(content)) + b"bad\n")
    return path


class Run:
    """What a run does with its data, and what it said."""

    def __init__(
        self, data: Path, cache: Path, *, writes: bool = True, most_bytes: int = 1 << 30, **changes: Any
    ) -> None:
        self.said: list[str] = []
        config = Config(dataset=str(data), on_bad_record="skip", **changes)
        kept = Store(folder=cache, writes=writes, most_bytes=most_bytes)
        self.source = Prepared(config, store=kept, say=self.said.append)
        self.tokenizer: BytePairTokenizer = self.source.tokenizer(400, say=self.said.append)
        self.tokens: Tokens = self.source.tokens(
            self.tokenizer,
            max_length=config.max_seq_length,
            completion_only=config.loss_on == "completion",
            say=self.said.append,
        )

    def like(self, other: Run) -> bool:
        """The same data, tokenizer and tokens."""
        columns = ("ids", "starts", "lengths", "masked", "cut")
        mine, theirs = self.source, other.source
        return (
            (mine.sha256, mine.count, mine.skipped) == (theirs.sha256, theirs.count, theirs.skipped)
            and self.tokenizer.to_json() == other.tokenizer.to_json()
            and all(getattr(self.tokens, name).equal(getattr(other.tokens, name)) for name in columns)
        )


def test_a_second_run_finds_what_the_first_made_and_parses_nothing(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run(large, tmp_path / "c", loss_on="completion")
    assert first.said == [f"Data: the tokens are kept for later runs, in {tmp_path / 'c'}."]
    assert len(list((tmp_path / "c").iterdir())) == 3  # the note of the data, the tokenizer, the tokens
    monkeypatch.setattr(records, "parse", None)
    moved = large.rename(tmp_path / "of another name")
    second = Run(moved, tmp_path / "c", loss_on="completion")
    assert second.said == [f"Data: the tokens were kept by an earlier run, in {tmp_path / 'c'}."]
    assert second.like(first)
    assert second.source.skipped[0].reason.startswith("not JSON")


def test_other_data_lengths_labels_and_tokenizers_are_not_mistaken_for_each_other(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    Run(large, cache)
    several: tuple[dict[str, Any], ...] = ({"max_seq_length": 32}, {"loss_on": "completion"})
    for changes in several:
        assert Run(large, cache, **changes).like(Run(large, tmp_path / "apart", **changes))
        assert "kept for later" in Run(large, tmp_path / str(changes), **changes).said[0]
    large.write_bytes(large.read_bytes().replace(b"the", b"The", 1))
    changed = Run(large, cache)
    assert "kept for later" in changed.said[0]
    other = BytePairTokenizer.from_texts(["another text"], vocab_size=300)
    assert other.identity != changed.tokenizer.identity


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "of other data"])
def test_what_is_damaged_is_made_again_and_one_line_says_so(large: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "c"
    first = Run(large, cache)
    (path,) = cache.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:  # a file whose digest is right, and which is not what its name says
        foreign = b"x"
        if damage == "of other data":
            other = tmp_path / "other.jsonl"
            other.write_bytes(large.read_bytes() + dataset.jsonl())
            Run(other, tmp_path / "other")
            foreign = next((tmp_path / "other").glob("*.safetensors")).read_bytes()
        path.unlink()
        key = path.name.split(".")[0]
        (cache / f"{key}.{hashlib.sha256(foreign).hexdigest()}.safetensors").write_bytes(foreign)
    second = Run(large, cache)
    assert second.like(first)
    assert len(second.said) == 2
    assert "is not used" in second.said[0]
    assert len(list(cache.iterdir())) == 3
    assert Run(large, cache).said == [f"Data: the tokens were kept by an earlier run, in {cache}."]


def test_damaged_notes_and_tokenizers_are_made_again(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    first = Run(large, cache)
    for path in cache.glob("*.json"):
        key = path.name.split(".")[0]
        path.unlink()
        (cache / f"{key}.{hashlib.sha256(b'[]').hexdigest()}.json").write_bytes(b"[]")
    second = Run(large, cache)
    assert second.like(first)
    assert [line.partition(":")[0] for line in second.said] == ["Cache", "Cache", "Data"]


def test_a_folder_that_cannot_be_written_or_has_no_room_ends_nothing(large: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    first = Run(large, tmp_path / "file" / "below")
    assert first.said
    assert all("nothing is kept in" in line for line in first.said)
    assert Run(large, tmp_path / "small", most_bytes=1000).like(first)
    assert not list((tmp_path / "small").glob("*.safetensors"))
    assert Run(large, tmp_path / "read", writes=False).like(first)
    assert not (tmp_path / "read").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    said: list[str] = []
    kept = Store(folder=tmp_path, writes=True)
    assert not kept.keep("0" * 32, "json", full, size_bytes=4, say=said.append)
    assert said == [f"Cache: nothing is kept in {tmp_path}: No space left on device."]
    assert not list(tmp_path.iterdir())


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    kept = Store(folder=tmp_path, writes=True, most_bytes=250)
    (tmp_path / "the user's own").write_bytes(b"x" * 1000)
    (tmp_path / "old.1.partial").write_bytes(b"x")
    os.utime(tmp_path / "old.1.partial", (1, 1))

    def keep(letter: str) -> None:
        key = letter * 32
        assert kept.keep(key, "json", lambda path: _hundred(path, letter), size_bytes=100, say=print)
        (path,) = tmp_path.glob(f"{key}.*")
        os.utime(path, (ord(letter), ord(letter)))

    for letter in "abc":
        keep(letter)
    assert sorted(path.name[0] for path in tmp_path.glob("*.json")) == ["b", "c"]
    assert kept.find("b" * 32, Path.read_bytes, say=print) == b"b" * 100  # used now, so it stays longer
    keep("d")
    assert sorted(path.name[0] for path in tmp_path.glob("*.json")) == ["b", "d"]
    assert (tmp_path / "the user's own").exists()
    assert not (tmp_path / "old.1.partial").exists()


def _hundred(path: Path, letter: str) -> None:
    path.write_text(letter * 100)


def test_small_data_is_neither_looked_for_nor_kept(tmp_path: Path) -> None:
    config = Config()
    source = Prepared(config, store=Store(folder=tmp_path / "c", writes=True), say=print)
    source.tokens(source.tokenizer(300, say=print), max_length=64, completion_only=False, say=print)
    assert not (tmp_path / "c").exists()
    assert prepared.store_for(dataclasses.replace(config, cache_tokens=False), {"HOME": "/h"}, writes=True) is None


class OfItsOwnCode(BytePairTokenizer):
    """A tokenizer of which nobody can say whether it is the one that an earlier run had."""

    identity = ""


def test_tokens_of_a_tokenizer_that_cannot_be_named_are_not_kept(large: Path, tmp_path: Path) -> None:
    for _ in range(2):
        source = Prepared(
            Config(dataset=str(large), on_bad_record="skip"), store=Store(folder=tmp_path / "c", writes=True), say=print
        )
        inner = source.tokenizer(400, say=print)
        tokens = source.tokens(
            OfItsOwnCode.from_json(inner.to_json()), max_length=64, completion_only=False, say=pytest.fail
        )
        assert len(tokens) == source.count
        assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json"}


def test_where_tokens_are_kept() -> None:
    below = Path("ongpu") / "tokens"
    assert store.folder_of({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x") / below
    assert store.folder_of({"HOME": "/h", "XDG_CACHE_HOME": "x"}) == Path("/h/.cache") / below
    assert store.folder_of({"HOME": "/h", "ONGPU_TOKEN_CACHE": "mine"}) == Path("mine")
    assert store.folder_of({"HOME": "/h", "ONGPU_KERNEL_CACHE": "mine"}, "kernels") == Path("mine")
    assert store.folder_of({"HOME": "/h"}, "kernels") == Path("/h/.cache/ongpu/kernels")
    assert store.folder_of({}) is None


def test_a_change_of_the_texts_raises_the_number_of_the_format() -> None:
    """Whoever changes what a record's text is sees this fail, and raises ``prepared.FORMAT`` with the digest."""
    one = records.Record(prompt="p", steps=("s", "t"), answer="a")
    text = repr((prepared.FORMAT, one.question, one.completion))
    assert text == "(1, 'Question: p\\nReasoning:\\n', '1. s\\n2. t\\nAnswer: a')"
