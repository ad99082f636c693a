"""Any causal language model of transformers: a local folder or a hub id. The one module that imports transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ongpu.errors import UsageError, WorkError
from ongpu.training.data import IGNORED, identity_of


class HubTokenizer:
    """A tokenizer of transformers, as the pipeline needs it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return len(self._inner)

    @property
    def end_id(self) -> int:
        """The end-of-text token."""
        return int(self._inner.eos_token_id)

    @property
    def identity(self) -> str:
        """Of a fast tokenizer, the digest of all that it does; the slow ones are code of their own."""
        backend = getattr(self._inner, "backend_tokenizer", None)
        if backend is None:
            return ""
        import transformers  # noqa: PLC0415 - see load

        return identity_of(backend.to_str(), f"{type(self._inner).__name__} {transformers.__version__} {self.end_id}")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with no special tokens added."""
        return [list(ids) for ids in self._inner(list(texts), add_special_tokens=False)["input_ids"]]

    def save(self, folder: Path) -> None:
        """Write its files."""
        self._inner.save_pretrained(folder)


class HubModel(torch.nn.Module):
    """A model of transformers with the two methods the loop calls."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    @property
    def context_length(self) -> int:
        """The longest row the model takes."""
        config = self.inner.config
        lengths = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return int(next((length for length in lengths if length), 1 << 30))

    def forward(self, ids: Any) -> Any:
        """Token ids to logits."""
        return self.inner(input_ids=ids, use_cache=False).logits

    def loss_sum(self, ids: Any, labels: Any, layout: None = None, *, chunk_tokens: int = 0) -> Any:
        """The cross-entropy in nats, summed over the labels that are not ``IGNORED``; one record a row only."""
        if layout is not None or chunk_tokens:
            raise ValueError("a model of transformers takes neither packed rows nor a loss in chunks")
        logits = self(ids)
        return functional.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), labels.view(-1), ignore_index=IGNORED, reduction="sum"
        )

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and the weights."""
        self.inner.save_pretrained(folder)


def load(name: str, *, say: Callable[[str], None]) -> tuple[HubModel, HubTokenizer]:
    """The model and tokenizer called ``name``, in float32; ``say`` is told of weights that have no place in it.

    :raises WorkError: transformers is not installed.
    :raises UsageError: no such model, files are missing, or weights, tokenizer and vocabulary disagree.
    """
    try:
        import transformers  # noqa: PLC0415 - seconds of import time that only this path pays
    except ImportError:
        raise WorkError(
            f"The model {name} needs the transformers library, which is not installed.",
            next_step="Install it (pip install transformers), or set model to tiny or gpt2.",
        ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what it warns of is refused or said here
    with _named(f"The tokenizer of {name}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    with _named(f"The model {name}"):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    _refuse_disagreement(name, found)
    if found["unexpected_keys"]:
        say(f"Model: {len(found['unexpected_keys'])} weights of {name} have no place in it and are left out.")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"The tokenizer of {name} has no end-of-text token.", next_step="Choose another model.")
    ours = HubTokenizer(tokenizer)
    if not ours.encode(["Question: 1"])[0]:
        raise UsageError(
            f"The tokenizer of {name} makes no token of a plain text: its vocabulary is missing.",
            next_step="Put the model's tokenizer.json beside its config.json.",
        )
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise UsageError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, its model only {rows}.",
            next_step="Give a model folder whose files agree.",
        )
    return HubModel(model), ours


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it hands on whatever its own libraries raise for a damaged file
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".,:")
        raise UsageError(
            f"{what} cannot be loaded: {reason}.",
            next_step="Set model to tiny, gpt2, a folder with config.json, weights and tokenizer, or a hub id.",
        ) from None


def _refuse_disagreement(name: str, found: Mapping[str, Any]) -> None:
    """:class:`UsageError` where transformers drew weights at random, since the checkpoint lacks or misshapes them."""
    for weight, theirs, ours in sorted(found["mismatched_keys"]):
        reason = f"{weight} is {tuple(theirs)} in its checkpoint, {tuple(ours)} by config.json"
        raise UsageError(f"The model {name} cannot be used: {reason}.", next_step="Give a folder whose files agree.")
    missing = sorted(found["missing_keys"])
    if missing:
        reason = f"{len(missing)} weights are missing, the first is {missing[0]}"
        raise UsageError(f"The model {name} cannot be used: {reason}.", next_step="Give a folder whose files agree.")
