"""The data of a run as tokens: prepared once, and found again by its content where that takes longer than looking."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from ongpu.errors import WorkError
from ongpu.training import records as record_files
from ongpu.training.config import Config
from ongpu.training.data import BytePairTokenizer, Tokenizer, Tokens, encode, tokenizers_library
from ongpu.training.records import BadLine, Record
from ongpu.training.store import Store, folder_of, key_of

FORMAT: Final = 1
"""To be raised with every change of the files kept here, and of what a record, its text or its tokens are."""
LEAST_BYTES: Final = 2_000_000
"""Smaller data is prepared each time: reading, tokenizer and tokens of so much take 0.7 s on two CPU cores."""
_COLUMNS: Final = ("ids", "lengths", "masked", "cut")


class Prepared:
    """One data set: what is to be said of it, a tokenizer made from it, and its tokens.

    :raises UsageError: there is no such data, or it has a bad line where those are not skipped.
    """

    def __init__(self, config: Config, *, store: Store | None, say: Callable[[str], None]) -> None:
        self.name, self._skip_bad = config.dataset, config.on_bad_record == "skip"
        self._content = record_files.read(self.name)
        self.sha256 = record_files.digest(self._content)
        self._store = store if len(self._content) >= LEAST_BYTES else None
        self._records: tuple[Record, ...] | None = None
        self.count: int
        self.skipped: tuple[BadLine, ...]
        facts = self._find("facts", read=_facts, say=say)
        if facts is None:
            self._parse()
            value = {"records": self.count, "skipped": [[one.number, one.reason] for one in self.skipped]}
            self._keep("facts", text=json.dumps(value), say=say)
        else:
            self.count, self.skipped = facts

    def tokenizer(self, vocab_size: int, *, say: Callable[[str], None]) -> BytePairTokenizer:
        """A tokenizer made from the texts of the data."""
        what = ("tokenizer", vocab_size, tokenizers_library().__version__)
        found = self._find(*what, read=_tokenizer, say=say)
        if found is None:
            found = BytePairTokenizer.from_texts(self._texts(), vocab_size=vocab_size)
            self._keep(*what, text=found.to_json(), say=say)
        return found

    def tokens(
        self, tokenizer: Tokenizer, *, max_length: int, completion_only: bool, say: Callable[[str], None]
    ) -> Tokens:
        """All records as tokens. To be asked for last: the text of the data is let go."""
        what = ("tokens", tokenizer.identity, max_length, completion_only)
        store, known = self._store, bool(tokenizer.identity)

        def read(path: Path) -> Tokens:
            return _tokens(path, count=self.count, most_id=tokenizer.size - 1)

        found = self._find(*what, read=read, say=say) if known else None
        if store and found is not None:
            say(f"Data: the tokens were kept by an earlier run, in {store.folder}.")
        if found is None:
            found = encode(self._parse(), tokenizer, max_length=max_length, completion_only=completion_only)
            if store and known and self._keep_tokens(store, found, *what, say=say):
                say(f"Data: the tokens are kept for later runs, in {store.folder}.")
        self._content, self._records = b"", None
        return found

    def _parse(self) -> tuple[Record, ...]:
        if self._records is None:
            found = record_files.parse(self._content, name=self.name, skip_bad=self._skip_bad)
            self._records, self.skipped, self.count = found.records, found.skipped, len(found.records)
        return self._records

    def _texts(self) -> Iterator[str]:
        return (record.question + record.completion for record in self._parse())

    def _key(self, *what: object) -> str:
        return key_of(FORMAT, self.sha256, self._skip_bad, *what)

    def _find(self, *what: object, read: Callable[[Path], Any], say: Callable[[str], None]) -> Any:
        return self._store.find(self._key(*what), read, say=say) if self._store else None

    def _keep(self, *what: object, text: str, say: Callable[[str], None]) -> None:
        content = text.encode()

        def write(path: Path) -> None:
            path.write_bytes(content)

        if self._store:
            self._store.keep(self._key(*what), "json", write, size_bytes=len(content), say=say)

    def _keep_tokens(self, store: Store, tokens: Tokens, *what: object, say: Callable[[str], None]) -> bool:
        import safetensors.torch  # noqa: PLC0415 - only for data that is worth it

        columns = dict(zip(_COLUMNS, (tokens.ids, tokens.lengths.int(), tokens.masked, tokens.cut), strict=True))

        def write(path: Path) -> None:
            try:
                safetensors.torch.save_file(columns, path)
            except safetensors.SafetensorError as error:  # what it makes of a full disk
                raise OSError(str(error)) from None

        size_bytes = sum(column.numel() * column.element_size() for column in columns.values())
        return store.keep(self._key(*what), "safetensors", write, size_bytes=size_bytes, say=say)


def store_for(config: Config, variables: Mapping[str, str], *, writes: bool) -> Store | None:
    """Where the environment says that tokens are kept; ``None`` where they are not."""
    folder = folder_of(variables) if config.cache_tokens else None
    return Store(folder=folder, writes=writes) if folder else None


def _facts(path: Path) -> tuple[int, tuple[BadLine, ...]]:
    try:
        value = json.loads(path.read_text("utf-8"))
        skipped = tuple(BadLine(number=int(number), reason=str(reason)) for number, reason in value["skipped"])
        return int(value["records"]), skipped
    except (KeyError, TypeError):
        raise ValueError("it is no note of a data set") from None


def _tokenizer(path: Path) -> BytePairTokenizer:
    try:
        return BytePairTokenizer.from_json(path.read_text("utf-8"))
    except WorkError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a damaged file
        raise ValueError(f"it is no tokenizer: {error}") from None


def _tokens(path: Path, *, count: int, most_id: int) -> Tokens:
    import safetensors.torch  # noqa: PLC0415 - only for data that is worth it

    try:
        columns = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is no file of safetensors: {error}") from None
    whole = set(columns) == set(_COLUMNS) and all(
        one.dtype is torch.int32 and one.dim() == 1 and len(one) for one in columns.values()
    )
    whole = whole and {len(columns[name]) for name in _COLUMNS[1:]} == {count}
    whole = whole and int(columns["lengths"].min()) > 0 and int(columns["lengths"].sum()) == len(columns["ids"])
    if not whole or int(columns["ids"].min()) < 0 or int(columns["ids"].max()) > most_id:
        raise ValueError("its tokens are not those of this data")
    return Tokens.of_columns(*(columns[name] for name in _COLUMNS))
