"""A model in a local folder, as Hugging Face lays it out, opened without importing transformers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from ongpu.errors import UsageError
from ongpu.training import gpt2, llama, weights
from ongpu.training.data import BytePairTokenizer, tokenizers_library
from ongpu.training.layers import NotOfThisShapeError

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


class FolderTokenizer(BytePairTokenizer):
    """The folder's own ``tokenizer.json``; saving copies the files it came with."""

    def __init__(self, folder: Path, inner: Any, *, end: str) -> None:
        super().__init__(inner, end=end)
        self._folder = folder

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files."""
        for name in _TOKENIZER_FILES:
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)


def open_folder(
    folder: Path,
    *,
    random_weights: bool,
    seed: int,
    new_tokenizer: Callable[[int], BytePairTokenizer],
    device: Any = "cpu",
) -> tuple[Any, BytePairTokenizer]:
    """The model in ``folder``, on ``device``, and its tokenizer.

    :param random_weights: take only the shape, and, where the folder has no tokenizer, a new one.
    :param new_tokenizer: makes one of at most so many tokens.
    :raises NotOfThisShapeError: one that only transformers can open, and why.
    :raises UsageError: files are missing or disagree; they are named.
    """
    config = _json(folder / "config.json")
    family_gpt2 = config.get("model_type") == "gpt2"
    shape = gpt2.read_shape(config) if family_gpt2 else llama.read_shape(config)
    _refuse_shape(folder, shape)
    if not random_weights and not weights.shards(folder):
        raise NotOfThisShapeError("it has no model.safetensors")
    tokenizer = _tokenizer(folder, config)
    if tokenizer is None:
        if not random_weights:
            raise NotOfThisShapeError("it has no tokenizer.json that names its end-of-text token")
        tokenizer = new_tokenizer(shape.vocab_size)
        config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.end_id)
    if tokenizer.size > shape.vocab_size:
        raise UsageError(
            f"The tokenizer in {folder} has {tokenizer.size} tokens, its config.json only {shape.vocab_size}.",
            next_step="Give a model folder whose files agree.",
        )
    with torch.device(device):
        if isinstance(shape, gpt2.GPT2Shape):
            return (gpt2.build(shape, seed=seed) if random_weights else gpt2.read(shape, folder)), tokenizer
        network = llama.Llama(shape, config=config)
    if random_weights:
        network.draw(seed=seed)
    else:
        network.read(folder)
    return network, tokenizer


def _refuse_shape(folder: Path, shape: gpt2.GPT2Shape | llama.LlamaShape) -> None:
    """:class:`UsageError` where the numbers of ``config.json`` make no model."""
    sizes = {
        name: value for name, value in dataclasses.asdict(shape).items() if type(value) is int and name != "end_id"
    }
    wrong = [f"{name} is {value}" for name, value in sizes.items() if value < 1]
    if not wrong and isinstance(shape, llama.LlamaShape) and shape.heads % shape.key_heads:
        wrong = [f"{shape.key_heads} key heads do not divide {shape.heads} heads"]
    if not wrong and isinstance(shape, gpt2.GPT2Shape) and shape.width % shape.heads:
        wrong = [f"{shape.heads} heads do not divide a width of {shape.width}"]
    if wrong:
        raise UsageError(
            f"The model in {folder} cannot be used: by its config.json {wrong[0].replace('_', ' ')}.",
            next_step="Give a folder whose config.json is that of its weights.",
        )


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> BytePairTokenizer | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    library = tokenizers_library()
    try:
        inner = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a damaged file
        raise UsageError(
            f"{folder / 'tokenizer.json'} cannot be read: {error}.", next_step="Give a folder whose files are whole."
        ) from None
    inner.no_padding()
    inner.no_truncation()
    settings = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    end = settings.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    identity = config.get("eos_token_id")
    if end is None and isinstance(identity, int):
        end = inner.id_to_token(identity)
    if not isinstance(end, str) or inner.token_to_id(end) is None:
        return None
    return FolderTokenizer(folder, inner, end=end)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", next_step="Give a folder whose files are whole.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not a JSON object.", next_step="Give a folder whose files are whole.")
    return value
