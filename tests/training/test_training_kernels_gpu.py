"""Our kernels on a real GPU against torch in float32. Run this file there with pytest."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ongpu.training import gpt2, llama
from ongpu.training.batches import Stream
from ongpu.training.config import Config
from ongpu.training.data import IGNORED, Example
from ongpu.training.main import main
from ongpu.training.optimizer import AdamW
from ongpu.training.precision import MasterWeights, Weights
from ongpu.training.reduce import ONE_RANK
from ongpu.training.step import gradients

# Triton starts an assembler and a C compiler
pytestmark = [pytest.mark.gpu, pytest.mark.process]

SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.999), "epsilon": 1e-8}
ROUNDING = 6e-3  # of a bfloat16 result of float32 arithmetic, as a share of the whole tensor


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return (torch.randn(*shape, device="cuda", generator=generator) * scale).to(torch.bfloat16)


def off(ours: Any, reference: Any) -> float:
    assert torch.isfinite(ours).all()
    ours, reference = ours.detach(), reference.detach()
    return float((ours.float() - reference.float()).norm() / reference.float().norm().clamp(min=1e-12))


def in_float32(function: Callable[..., Any], slopes: list[Any], *inputs: Any) -> tuple[Any, tuple[Any, ...]]:
    """The outputs of ``function`` and the slopes of its inputs, by autograd in float32."""
    leaves = [one.float().requires_grad_() for one in inputs]
    outputs = function(*leaves)
    total = sum((one * slope.float()).sum() for one, slope in zip(outputs, slopes, strict=True))
    return outputs, torch.autograd.grad(total, leaves)


@pytest.mark.parametrize(("tokens", "width"), [(50, 96), (704, 768), (4096, 2048), (33, 5120)])
@pytest.mark.parametrize("centered", [True, False])
def test_sum_and_norm(tokens: int, width: int, *, centered: bool) -> None:
    from ongpu.training import kernels

    x, delta, to_total, to_out = (random(tokens, width, seed=seed) for seed in range(4))
    bias, weight, shift = (random(width, seed=seed) for seed in range(4, 7))

    def reference(x: Any, delta: Any, bias: Any, weight: Any, shift: Any) -> Any:
        whole = x + delta + bias
        total = whole + (whole.to(torch.bfloat16).float() - whole).detach()  # as it is stored
        if centered:
            return total, functional.layer_norm(total, (width,), weight, shift, 1e-5)
        return total, functional.rms_norm(total, (width,), weight, 1e-5) + 0 * shift.sum()

    outputs, slopes = in_float32(reference, [to_total, to_out], x, delta, bias, weight, shift)
    total, out, mean, scale = kernels.add_norm(x, delta, bias, weight, shift if centered else None, epsilon=1e-5)
    back = kernels.add_norm_backward(total, weight, mean, scale, to_out, to_total, has_bias=True)
    assert off(total, outputs[0]) < ROUNDING
    assert off(out, outputs[1]) < ROUNDING
    assert off(back[0], slopes[0]) < ROUNDING
    assert off(back[1], slopes[3]) < ROUNDING
    assert off(back[3], slopes[2]) < ROUNDING
    if centered:
        assert off(back[2], slopes[4]) < ROUNDING


@pytest.mark.parametrize(("tokens", "width"), [(50, 96), (704, 3072), (8192, 8192)])
def test_activations(tokens: int, width: int) -> None:
    from ongpu.training import kernels

    product, slope, bias = random(tokens, width), random(tokens, width, seed=1), random(width, seed=2)
    outputs, slopes = in_float32(
        lambda product, bias: (functional.gelu(product + bias, approximate="tanh"),), [slope], product, bias
    )
    assert off(kernels.bias_gelu(product, bias), outputs[0]) < ROUNDING
    for ours, reference in zip(kernels.bias_gelu_backward(product, bias, slope), slopes, strict=True):
        assert off(ours, reference) < ROUNDING
    both = random(tokens, 2 * width, seed=3)
    outputs, slopes = in_float32(lambda both: (functional.silu(both[:, :width]) * both[:, width:],), [slope], both)
    assert off(kernels.gated(both), outputs[0]) < ROUNDING
    assert off(kernels.gated_backward(both, slope), slopes[0]) < ROUNDING
    assert off(kernels.column_sum(product), product.float().sum(0)) < ROUNDING


@pytest.mark.parametrize(("rows", "width"), [(40, 100), (64, 8192), (300, 50304), (16, 151936)])
def test_cross_entropy(rows: int, width: int) -> None:
    from ongpu.training import kernels

    logits = random(rows, width, scale=3.0)
    labels = torch.randint(0, width, (rows,), device="cuda")
    labels[::7] = IGNORED
    leaf = logits.float().requires_grad_()
    losses = functional.cross_entropy(leaf, labels, ignore_index=IGNORED, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), leaf)
    ours = kernels.cross_entropy_(logits, labels, ignored=IGNORED)
    assert torch.allclose(ours, losses, rtol=1e-5, atol=1e-5)
    assert off(logits, slope) < ROUNDING
    assert not logits[::7].any()


@pytest.mark.parametrize(("heads", "keys", "width"), [(12, 12, 64), (8, 2, 64), (4, 1, 128), (2, 2, 32)])
@pytest.mark.parametrize("lengths", [[1], [64, 65, 63, 1, 2, 0, 0], [196, 60, 118, 130], [512, 3, 300]])
def test_attention_within_records(heads: int, keys: int, width: int, lengths: list[int]) -> None:
    from ongpu.training import fused, record_attention

    tokens, longest = sum(lengths), max(lengths)
    packed, slope = random(tokens, (heads + 2 * keys) * width), random(tokens, heads * width, seed=1)
    ends = [0, *itertools.accumulate(lengths)]
    boundaries = torch.tensor(ends, dtype=torch.int32, device="cuda")

    def reference(packed: Any) -> Any:
        parts = []
        for start, end in itertools.pairwise(ends):
            if start == end:
                continue
            query, key, value = packed[start:end].view(-1, heads + 2 * keys, width).split([heads, keys, keys], dim=1)
            key, value = (part.repeat_interleave(heads // keys, dim=1) for part in (key, value))
            query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            parts.append(mixed[0].transpose(0, 1).reshape(end - start, -1))
        return (torch.cat(parts),)

    outputs, slopes = in_float32(reference, [slope], packed)
    records = {"longest": longest, "heads": heads, "keys": keys}
    out, sums = record_attention.forward(packed, boundaries, **records)
    assert off(out, outputs[0]) < ROUNDING
    assert off(record_attention.backward(packed, boundaries, out, slope, sums, **records), slopes[0]) < ROUNDING
    other, *state = fused._flash_forward(packed, boundaries, **records)
    assert off(other, outputs[0]) < ROUNDING
    assert off(fused._flash_backward(packed, boundaries, other, slope, *state, **records), slopes[0]) < ROUNDING


def small_llama(*, biases: bool) -> Any:
    config = {
        "model_type": "qwen2" if biases else "llama",
        "vocab_size": 2000,
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": not biases,
    }
    model = llama.Llama(llama.read_shape(config), config=config)
    model.draw(seed=1)
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: gpt2.build(gpt2.tiny_shape(vocab_size=2048, end_id=0), seed=1),
    "llama": lambda: small_llama(biases=False),
    "qwen2": lambda: small_llama(biases=True),
}


def stream(longest: int = 190) -> Stream:
    lengths = torch.randint(20, longest, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    examples = []
    for seed, length in enumerate([*lengths, longest]):
        ids = torch.randint(1, 2000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
        examples.append(Example(ids=tuple(ids), labels=(*ids[1:], IGNORED)))
    return Stream(examples, seed=1, batch_size=1, batch_tokens=1536, micro_steps=1, max_steps=8, packed=True, fill=0)


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("longest", [190, 700])
@pytest.mark.parametrize("chunk_tokens", [0, 512])
def test_gradients_are_as_near_to_float32_as_those_of_plain_bfloat16(
    kind: str, longest: int, chunk_tokens: int
) -> None:
    from ongpu.training.flat import FlatAdamW, FlatWeights

    (batch,) = stream(min(longest, 500 if kind == "gpt2" else longest)).step(1)
    config = Config(loss_chunk_tokens=chunk_tokens, max_grad_norm=0.0)
    optimizer: AdamW
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    for way in ("float32", "plain", "fused"):
        model = MODELS[kind]().cuda()
        weights: Weights
        if way == "fused":
            model.fuse()
            flat = FlatWeights(model, device="cuda")
            weights, optimizer = flat, FlatAdamW(flat, **SETTINGS)
        else:
            weights = MasterWeights(model, device="cuda") if way == "plain" else Weights(model, device="cuda")
            optimizer = AdamW(weights.masters.values(), **SETTINGS)
        loss, norm = gradients(weights, optimizer, [batch.to("cuda")], config=config).tolist()
        source = model.named_parameters() if way == "fused" else weights.masters.items()
        made = {name: weight.grad.float().clone() for name, weight in source}
        assert norm == pytest.approx(math.sqrt(sum(float(one.square().sum()) for one in made.values())), rel=1e-3)
        found[way] = (loss, made)
    reference = found["float32"][1]
    assert found["fused"][0] == pytest.approx(found["float32"][0], rel=2e-3)
    for name, gradient in reference.items():
        plain, fused = (off(found[way][1][name], gradient) for way in ("plain", "fused"))
        assert fused < max(1.5 * plain, 0.02), name


def test_an_update_is_that_of_torch_and_can_be_withheld() -> None:
    from ongpu.training.flat import FlatAdamW, FlatWeights

    model = MODELS["gpt2"]().cuda()
    flat = FlatWeights(model, device="cuda")
    ours = FlatAdamW(flat, **SETTINGS)
    theirs = {name: master.detach().clone().requires_grad_() for name, master in flat.masters.items()}
    groups = [
        {"params": [one for one in theirs.values() if one.dim() >= 2], "weight_decay": 0.1},
        {"params": [one for one in theirs.values() if one.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=True)
    names = [name for name, _ in model.named_parameters()]
    for step in range(1, 6):
        for seed, (name, weight) in enumerate(model.named_parameters()):
            weight.grad = random(*weight.shape, seed=100 * step + seed)
            theirs[name].grad = weight.grad.float()
        expected = torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.0)
        assert float(ours.clip(1.0, ONE_RANK)) == pytest.approx(float(expected), rel=1e-4)
        if step == 3:  # withheld: nothing moves, and it is not counted
            before = flat.flat.clone()
            ours.withhold.fill_(1.0)
            ours.step()
            ours.withhold.zero_()
            assert torch.equal(before, flat.flat)
            assert float(ours.step_count) == 2.0
        ours.step()
        reference.step()
    for name in names:
        assert torch.allclose(flat.masters[name], theirs[name], rtol=1e-5, atol=1e-6), name
        assert torch.equal(model.get_parameter(name), flat.masters[name].to(torch.bfloat16)), name


def train(folder: Path, *options: str, **changes: object) -> list[float]:
    values: dict[str, object] = {
        "batch_size": 4,
        "max_steps": 12,
        "tensorboard": False,
        "learning_rate": 3e-4,
        "precision": "bfloat16",
        "packing": True,
        "kernels": "always",
    }
    folder.mkdir(exist_ok=True)
    path = folder / "job.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**values, **changes}.items()))
    given = ["--config", str(path), "--output", str(folder / "out"), "--device", "cuda", *options]
    assert main(given) == 0
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def forget_the_end(out: Path) -> None:
    """Leave a finished run as it was at the checkpoint before its last."""
    newest = sorted((out / "checkpoints").iterdir())[-1]
    assert newest.name == "step-000012"
    shutil.rmtree(newest)
    (out / "model.safetensors").unlink()


def test_a_run_has_the_series_of_the_plain_one(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", kernels="never")
    assert train(tmp_path / "recorded") == pytest.approx(plain, rel=1e-2)
    assert train(tmp_path / "eager", cuda_graph="never") == pytest.approx(plain, rel=1e-2)
    facts = json.loads((tmp_path / "recorded" / "out" / "run.json").read_text())
    assert facts["step_recorded"] is True
    assert any(choice.startswith("kernels of our own: yes") for choice in facts["choices"])
    assert train(tmp_path / "again") == train(tmp_path / "once more")  # sums have one order


def test_later_runs_launch_what_was_kept_without_triton(tmp_path: Path) -> None:
    script = (
        "import sys; from ongpu.training.main import main; status = main(sys.argv[1:]); "
        "print('triton' in sys.modules); sys.exit(status)"
    )
    config = tmp_path / "job.yaml"
    config.write_text("max_steps: 12\nprecision: bfloat16\npacking: true\ntensorboard: false\n")

    def train_apart(name: str, kernels: str) -> tuple[list[float], str]:
        given = ["--config", config, "--output", tmp_path / name, "--device", "cuda", "--explain"]
        config.write_text(f"{config.read_text().partition('kernels')[0]}kernels: {kernels}\n")
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, given)],
            env={**os.environ, "ONGPU_KERNEL_CACHE": str(tmp_path / "kept")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], done.stdout

    _, before = train_apart("before", "auto")
    assert "kernels of our own: no, 12 steps are fewer" in before
    first, compiled = train_apart("first", "always")
    assert compiled.splitlines()[-1] == "True"
    later, loaded = train_apart("later", "auto")
    assert "kernels of our own: yes, an earlier run left them compiled" in loaded
    assert loaded.splitlines()[-1] == "False"
    assert later == first
    (kept,) = (tmp_path / "kept").iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    _, spoiled = train_apart("spoiled", "auto")
    assert "is not used: its digest does not agree" in spoiled
    assert "kernels of our own: no, 12 steps are fewer" in spoiled


def test_micro_steps_resume_and_twice_computed_blocks(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", batch_size=6)
    parts = train(tmp_path / "parts", batch_size=2, grad_accumulation_steps=3)
    assert parts == pytest.approx(whole, rel=1e-2)
    assert train(tmp_path / "twice", batch_size=6, recompute_blocks=True) == pytest.approx(whole, rel=1e-2)
    train(tmp_path / "resumed", batch_size=6, save_every=5)
    forget_the_end(tmp_path / "resumed" / "out")
    assert train(tmp_path / "resumed", "--resume", batch_size=6, save_every=5) == pytest.approx(whole, rel=1e-3)
