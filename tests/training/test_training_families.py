"""Models in local folders: our GPT-2 and Llama families against those of transformers, and folders that disagree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from ongpu.errors import UsageError
from ongpu.training import hub, llama
from ongpu.training.batches import Stream
from ongpu.training.data import BytePairTokenizer, Example
from ongpu.training.folder import open_folder
from ongpu.training.layers import NotOfThisShapeError
from ongpu.training.main import main

pytestmark = pytest.mark.process
TEXTS = ["Question: What is 1 + 1?\nReasoning:\n", "1. It is 2.\nAnswer: 2"] * 3
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
STRETCHED = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama tied": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama 3.1": lambda: transformers.LlamaConfig(**SMALL, rope_parameters=STRETCHED),
    "mistral": lambda: transformers.MistralConfig(**SMALL, sliding_window=None, head_dim=32),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=32),
    "gemma": lambda: transformers.GemmaConfig(**SMALL, head_dim=32, pad_token_id=None),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
}


def saved(folder: Path, family: str, **options: Any) -> Any:
    """A model of transformers with random weights and a tokenizer, in ``folder``."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for name, weight in model.named_parameters():
        if weight.dim() == 1:  # norms of 1 and biases of 0 would hide a mistake
            ones = ("norm" in name or "ln_" in name) and family != "gemma"
            torch.nn.init.normal_(weight, float(ones), 0.1)
    model.save_pretrained(folder, **options)
    BytePairTokenizer.from_texts(TEXTS, vocab_size=300).save(folder)
    return model.eval()


def new_tokenizer(most: int) -> BytePairTokenizer:
    return BytePairTokenizer.from_texts(TEXTS, vocab_size=min(300, most))


def opened(folder: Path, *, random_weights: bool = False) -> tuple[Any, BytePairTokenizer]:
    return open_folder(folder, random_weights=random_weights, seed=1, new_tokenizer=new_tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_give_the_same_logits_loss_and_gradients(tmp_path: Path, family: str) -> None:
    theirs = saved(tmp_path, family)
    ours, _ = opened(tmp_path)
    ids = torch.randint(0, 320, (2, 50), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(ids), theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    loss, expected = ours.loss_sum(ids, labels) / 98, theirs(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.backward()
    expected.backward()
    grads = {name.removeprefix("transformer."): weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(
            weight.grad, grads[name.removeprefix("transformer.")], rtol=1e-3, atol=1e-6, msg=name
        )
    ours.save(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


def test_shards_and_old_names_are_read(tmp_path: Path) -> None:
    whole = saved(tmp_path / "sharded", "llama", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    ids = torch.arange(40)[None]
    torch.testing.assert_close(opened(tmp_path / "sharded")[0](ids), whole(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    old = saved(tmp_path / "old", "gpt2")
    file = tmp_path / "old/model.safetensors"
    tensors = {name.removeprefix("transformer."): t for name, t in safetensors.torch.load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    safetensors.torch.save_file(tensors, file)
    torch.testing.assert_close(opened(tmp_path / "old")[0](ids), old(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_folders_whose_files_disagree_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "good", "llama")
    weights = safetensors.torch.load_file(tmp_path / "good/model.safetensors")
    first = "model.layers.0.mlp.up_proj.weight"

    def broken(name: str, tensors: dict[str, Any] | None = None, **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        if tensors is not None:
            safetensors.torch.save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    lacking = {name: tensor for name, tensor in weights.items() if name != first}
    torn = broken("torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    unread = broken("unread")
    (unread / "config.json").write_text("{")
    garbled = broken("garbled")
    (garbled / "tokenizer.json").write_text("{}")
    for folder, words in [
        (broken("missing", lacking), ("1 weights are missing", first)),
        (broken("shape", {**weights, first: torch.zeros(3, 3)}), (first, "(3, 3)", "(96, 64)")),
        (broken("extra", {**weights, "model.more.weight": torch.zeros(3)}), ("model.more.weight", "no place")),
        (broken("few", vocab_size=64), ("287 tokens", "only 64")),
        (broken("head", tie_word_embeddings=True), ("by config.json", "is model.embed_tokens.weight", "it is not")),
        (torn, ("model.safetensors cannot be read",)),
        (unread, ("config.json cannot be read",)),
        (garbled, ("tokenizer.json cannot be read",)),
    ]:
        with pytest.raises(UsageError) as caught:
            opened(folder)
        for word in words:
            assert word in caught.value.message, caught.value.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gemma3"}, "its model_type is gemma3"),
        ({"hidden_act": "gelu"}, "its hidden_act is gelu"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding window of 64"),
        ({"attention_bias": True}, "has biases"),
        ({"rope_scaling": {"type": "yarn"}}, "rotary scaling is yarn"),
        ({"rms_norm_eps": None}, "lacks or misstates"),
        ({"is_causal": False}, "its is_causal is False"),
        ({"model_type": "mistral"}, "lacks sliding_window"),
        ({"model_type": "qwen3"}, "lacks head_dim"),
        ({"model_type": "smollm3"}, "its model_type is smollm3"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of sliding_attention"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": STRETCHED}, "rope_parameters are not its"),
        ({"rope_parameters": {"full_attention": STRETCHED}}, "its layers turn differently"),
        ({"rope_parameters": {**STRETCHED, "partial_rotary_factor": 0.5}}, "its partial_rotary_factor is 0.5"),
    ],
)
def test_what_a_shape_does_not_cover_goes_through_transformers(changes: dict[str, Any], reason: str) -> None:
    plain = {"model_type": "llama", "rms_norm_eps": 1e-5, **SMALL}
    assert llama.read_shape(plain).key_heads == 2
    with pytest.raises(NotOfThisShapeError, match=reason):
        llama.read_shape({**plain, **changes})


def test_a_shape_alone_is_filled_at_random(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rms_norm_eps": 1e-5, **SMALL}))
    model, tokenizer = opened(tmp_path, random_weights=True)
    assert tokenizer.size == 287
    assert model.model.norm.weight.tolist() == [1.0] * 64
    assert float(model.lm_head.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    with pytest.raises(NotOfThisShapeError, match=r"no model\.safetensors"):
        opened(tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_a_folder_is_trained_packed_and_in_bfloat16_and_transformers_loads_the_result(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "model", family)
    losses = {}
    for name, extra in {
        "plain": "",
        "packed": "packing: true\n",
        "fast": "packing: true\nprecision: bfloat16\n",
    }.items():
        path, out = tmp_path / "job.yaml", tmp_path / name
        path.write_text(
            f"model: {tmp_path / 'model'}\nbatch_size: 4\nmax_seq_length: 100\nmax_steps: 4\n"
            f"tensorboard: false\n{extra}"
        )
        assert main(["--config", str(path), "--output", str(out), "--device", "cpu"]) == 0
        losses[name] = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        model = transformers.AutoModelForCausalLM.from_pretrained(out)
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        ids = tokenizer("Question: 2 + 2?", return_tensors="pt")
        assert torch.isfinite(model(**ids).logits).all()
    assert losses["packed"] == pytest.approx(losses["plain"], abs=5e-5)
    assert losses["fast"] == pytest.approx(losses["plain"], rel=0.02)
    assert "transformers opens" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda: transformers.Qwen2Config(**{**SMALL, "hidden_act": "gelu"}), "its hidden_act is gelu"),
        (
            lambda: transformers.MistralConfig(**SMALL, sliding_window=16),
            "its attention has a sliding window of 16",
        ),
        (lambda: transformers.SmolLM3Config(**SMALL, pad_token_id=None), "its model_type is smollm3"),
    ],
)
def test_what_is_not_ours_is_said_and_opened_by_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Callable[[], Any], reason: str
) -> None:
    torch.manual_seed(1)
    transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(tmp_path / "model")
    BytePairTokenizer.from_texts(TEXTS, vocab_size=300).save(tmp_path / "model")
    path = tmp_path / "job.yaml"
    path.write_text(f"model: {tmp_path / 'model'}\nbatch_size: 2\nmax_steps: 2\ntensorboard: false\n")
    assert main(["--config", str(path), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"Model: transformers opens {tmp_path / 'model'}, for {reason}." in said


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("llama", {"num_key_value_heads": 3}, "3 key heads do not divide 4 heads"),
        ("qwen3", {"head_dim": -1}, "head width is -1"),
        ("gpt2", {"n_head": 7}, "7 heads do not divide a width of 64"),
        ("gpt2", {"n_head": 0}, "heads is 0"),
        ("gpt2", {"n_layer": -1}, "layers is -1"),
    ],
)
def test_numbers_that_make_no_model_are_named(
    tmp_path: Path, family: str, changes: dict[str, object], said: str
) -> None:
    saved(tmp_path, family)
    changed(tmp_path, **changes)
    with pytest.raises(UsageError, match=said):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "7"])
def test_an_index_names_files_of_its_own_folder(tmp_path: Path, name: str) -> None:
    saved(tmp_path, "llama")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UsageError, match=name):
        opened(tmp_path)


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: changed(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3),
            "weights are missing, the first is model.layers.2.",
        ),
        (
            lambda folder: changed(folder, vocab_size=310),
            r"weight is \(320, 64\) in its checkpoint, \(310, 64\)",
        ),
        (lambda folder: changed(folder, hidden_size="wide"), "cannot be loaded"),
        (_cut, "cannot be loaded: Error while deserializing header"),
        (_without_tokenizer, "tokenizer"),
    ],
)
def test_what_transformers_opens_must_be_whole_too(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    config = transformers.Qwen2Config(**{**SMALL, "hidden_act": "gelu"})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    BytePairTokenizer.from_texts(TEXTS, vocab_size=300).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=said) as caught:
        hub.load(str(tmp_path), say=lambda line: None)
    assert caught.value.next_step


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch._dynamo raises it about its own doing
def test_blocks_compile_whole_and_once(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3")
    examples = [Example(ids=tuple(range(1, n)), labels=(*range(2, n), -100)) for n in (9, 20, 33, 14)]
    packed = Stream(examples, seed=1, batch_size=3, micro_steps=1, max_steps=3, packed=True, fill=0)
    batches = [batch for step in (1, 2, 3) for batch in packed.step(step)]
    model, _ = opened(tmp_path)
    plain = [model.loss_sum(batch.ids, batch.labels, batch.layout).item() for batch in batches]
    graphs: list[Any] = []

    def count(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for block in model.model.layers:
        block.compile(backend=count, fullgraph=True)
    assert [model.loss_sum(b.ids, b.labels, b.layout).item() for b in batches] == pytest.approx(plain, rel=1e-6)
    assert len(graphs) == 1
