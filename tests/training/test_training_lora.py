"""LoRA: adapters beside models in local folders, saved so that peft and transformers load them."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from ongpu.errors import UsageError
from ongpu.training import lora
from ongpu.training.config import Config
from ongpu.training.data import BytePairTokenizer
from ongpu.training.folder import open_folder
from ongpu.training.main import main

pytestmark = pytest.mark.process
TEXTS = ["Question: What is 1 + 1?\nReasoning:\n", "1. It is 2.\nAnswer: 2"] * 3
FAMILIES: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
    ),
}  # fmt: skip
IDS = torch.randint(0, 320, (2, 50), generator=torch.Generator().manual_seed(2))


def base(folder: Path, family: str) -> Path:
    """A model of transformers with random weights and a tokenizer, in ``folder``."""
    torch.manual_seed(1)
    transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).save_pretrained(folder)
    BytePairTokenizer.from_texts(TEXTS, vocab_size=300).save(folder)
    return folder


def new_tokenizer(most: int) -> BytePairTokenizer:
    return BytePairTokenizer.from_texts(TEXTS, vocab_size=min(300, most))


def adapted(folder: Path, **changes: Any) -> tuple[Any, Config]:
    """Our model with adapters whose second matrices are no longer zero."""
    network, _ = open_folder(folder, random_weights=False, seed=1, new_tokenizer=new_tokenizer)
    config = Config(model=str(folder), **{"lora_rank": 4, "lora_alpha": 8.0, **changes})
    before = network(IDS)
    lora.add(network, config, native=True)
    assert torch.equal(network(IDS), before), "an adapter begins as nothing"
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            assert weight.requires_grad is ("lora_" in name)
            if name.endswith("lora_B"):
                weight.normal_(0.0, 0.1)
    return network, config


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_saved_adapters_added_to_the_base_by_hand_give_our_logits(tmp_path: Path, family: str) -> None:
    network, config = adapted(base(tmp_path / "base", family))
    lora.save(network, tmp_path, config)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    weights = dict(theirs.named_parameters())
    assert len(tensors) == 2 * 2 * (4 if family == "gpt2" else 7)
    with torch.no_grad():
        for key in [key for key in tensors if key.endswith("lora_A.weight")]:
            product = tensors[key.replace("lora_A", "lora_B")] @ tensors[key] * settings["lora_alpha"] / settings["r"]
            weight = weights[key.removeprefix("base_model.model.").replace("lora_A.", "")]
            weight += product.T if settings["fan_in_fan_out"] else product
    torch.testing.assert_close(network(IDS), theirs(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("default::FutureWarning")  # peft 0.21 with transformers 5.23
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_peft_loads_saved_adapters_and_gives_our_logits(tmp_path: Path, family: str) -> None:
    network, config = adapted(base(tmp_path / "base", family))
    lora.save(network, tmp_path, config)
    peft: Any = importlib.import_module("peft")
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path
    )
    torch.testing.assert_close(network(IDS), theirs(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    ours = {name.removesuffix(".weight"): tuple(one.shape) for name, one in _tensors(tmp_path).items()}
    theirs.save_pretrained(tmp_path / "again")
    assert {
        name.removesuffix(".weight"): tuple(one.shape) for name, one in _tensors(tmp_path / "again").items()
    } == ours


def _tensors(folder: Path) -> dict[str, Any]:
    return dict(safetensors.torch.load_file(folder / "adapter_model.safetensors"))


def run(folder: Path, out: str, *more: object, **changes: object) -> int:
    values: dict[str, object] = {
        "model": str(folder / "base"), "lora_rank": 4, "batch_size": 4, "max_seq_length": 64, "tensorboard": False,
        "learning_rate": 1e-2, "max_steps": 6, **changes,
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return main(["--config", str(path), "--output", str(folder / out), "--device", "cpu", *map(str, more)])


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_trains_saves_and_resumes_the_adapters_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    base(tmp_path / "base", "llama")
    assert run(tmp_path, "straight", precision=precision, packing=True, save_every=3) == 0
    said = capsys.readouterr().out
    assert "LoRA: rank 4 beside 14 layers, 7,424 of" in said
    series = losses(tmp_path / "straight")
    assert series[-1] < series[0] - 0.05
    kept = {one.name for one in (tmp_path / "straight").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= kept
    assert "model.safetensors" not in kept
    state = tmp_path / "straight/checkpoints/step-000006/state.safetensors"
    assert state.stat().st_size < 7_424 * 12 + 20_000
    assert run(tmp_path, "stopped", "--max_steps", 3, precision=precision, packing=True, save_every=3) == 0
    (tmp_path / "stopped/adapter_config.json").unlink()
    assert run(tmp_path, "stopped", "--resume", precision=precision, packing=True, save_every=3) == 2
    assert "max_steps = 3; this one has 6" in capsys.readouterr().err
    assert run(tmp_path, "a", "--max_steps", 3, precision=precision, save_every=3) == 0
    assert run(tmp_path, "a", "--resume", precision=precision, save_every=3) == 0
    assert run(tmp_path, "b", precision=precision) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_layers_that_are_not_there_and_models_without_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base(tmp_path / "base", "llama")
    network, _ = open_folder(tmp_path / "base", random_weights=False, seed=1, new_tokenizer=new_tokenizer)
    with pytest.raises(UsageError, match="lora_targets names c_attn, which the model does not have"):
        lora.add(network, Config(model=str(tmp_path / "base"), lora_rank=2, lora_targets="c_attn, q_proj"), native=True)
    for changes, said in (({"lora_targets": ","}, "names no layer"), ({"lora_rank": 1000}, "more than a layer of")):
        with pytest.raises(UsageError, match=said):
            adapted(tmp_path / "base", **changes)
    two = adapted(tmp_path / "base", lora_targets="q_proj,v_proj")[0]
    assert sum("lora_A" in name for name, _ in two.named_parameters()) == 4
    assert run(tmp_path, "out", model="tiny") == 2
    assert "has random weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("default::FutureWarning")  # peft 0.21 with transformers 5.23
def test_a_model_of_transformers_goes_through_peft_or_says_that_it_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base(tmp_path / "base", "gpt_neox")
    status = run(tmp_path, "out")
    if importlib.util.find_spec("peft") is None:
        assert status == 1
        assert "needs the peft library" in capsys.readouterr().err
        return
    assert status == 0
    series = losses(tmp_path / "out")
    assert series[-1] < series[0] - 0.05
    assert (tmp_path / "out/adapter_model.safetensors").exists()
    assert not (tmp_path / "out/model.safetensors").exists()
