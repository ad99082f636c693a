"""Any causal language model of transformers: a local folder or a hub id. The one module that imports transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ongpu.errors import UsageError, WorkError
from ongpu.training.data import IGNORED


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


def load(name: str) -> tuple[HubModel, HubTokenizer]:
    """The model and tokenizer called ``name``, in float32.

    :raises WorkError: transformers is not installed.
    :raises UsageError: no such model, files are missing, or tokenizer and vocabulary disagree.
    """
    try:
        import transformers  # noqa: PLC0415 - seconds of import time that only this path pays
    except ImportError:
        raise WorkError(
            f"The model {name} needs the transformers library, which is not installed.",
            next_step="Install it (pip install transformers), or set model to tiny or gpt2.",
        ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"The model {name} cannot be loaded: {reason}",
            next_step="Set model to tiny, gpt2, a folder with config.json, weights and tokenizer, or a hub id.",
        ) from None
    if tokenizer.eos_token_id is None:
        raise UsageError(f"The tokenizer of {name} has no end-of-text token.", next_step="Choose another model.")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise UsageError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, its model only {rows}.",
            next_step="Give a model folder whose files agree.",
        )
    return HubModel(model), HubTokenizer(tokenizer)
