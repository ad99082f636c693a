"""Our GPT-2 and AdamW against those of transformers and torch: same weights, same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ongpu.training import gpt2 as models
from ongpu.training.data import IGNORED
from ongpu.training.optimizer import AdamW

SHAPE = models.tiny_shape(vocab_size=320, end_id=0)


def _ids() -> Any:
    return torch.randint(0, 320, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.process
def test_transformers_computes_the_same_logits_and_loss_from_our_weights(tmp_path: Path) -> None:
    ours = models.build(SHAPE, seed=5)
    ours.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    ids = _ids()
    labels = torch.cat([ids[:, 1:], torch.full((3, 1), IGNORED)], dim=1)
    labels[0, 30:] = IGNORED
    theirs_out = theirs(input_ids=ids)
    torch.testing.assert_close(ours(ids), theirs_out.logits, rtol=1e-5, atol=1e-5)
    shifted = torch.cat([torch.full((3, 1), IGNORED), labels[:, :-1]], dim=1)  # transformers shifts them back
    expected = theirs(input_ids=ids, labels=shifted).loss
    got = ours.loss_sum(ids, labels) / int((labels != IGNORED).sum())
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_the_124m_shape_is_that_of_gpt2() -> None:
    config = transformers.GPT2Config().to_dict()
    ours = models.gpt2_shape(end_id=0).to_config()
    for key in (
        "vocab_size",
        "n_positions",
        "n_embd",
        "n_layer",
        "n_head",
        "activation_function",
        "layer_norm_epsilon",
    ):
        assert ours[key] == config[key], key
    with torch.device("meta"):
        assert sum(w.numel() for w in models.GPT2(models.gpt2_shape(end_id=0)).parameters()) == 124_439_808


def test_weights_depend_on_seed_and_name_alone() -> None:
    one, same, other = models.build(SHAPE, seed=5), models.build(SHAPE, seed=5), models.build(SHAPE, seed=6)
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() == 1 or not torch.equal(a, c), name
    std = {name: weight.std().item() for name, weight in one.named_parameters() if weight.dim() == 2}
    assert std["transformer.wte.weight"] == pytest.approx(0.02, rel=0.02)
    assert std["transformer.h.0.mlp.c_proj.weight"] == pytest.approx(0.02 / (2 * SHAPE.layers) ** 0.5, rel=0.02)


def _grads(model: Any) -> None:
    ids = _ids()
    (model.loss_sum(ids, ids) / ids.numel()).backward()


@pytest.mark.process
def test_adamw_is_that_of_torch() -> None:
    ours, theirs = models.build(SHAPE, seed=5), models.build(SHAPE, seed=5)
    mine = AdamW(ours.parameters(), learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    groups = [
        {"params": [w for w in theirs.parameters() if w.dim() >= 2], "weight_decay": 0.1},
        {"params": [w for w in theirs.parameters() if w.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        for model, optimizer in ((ours, mine), (theirs, reference)):
            # drawn, not computed: a key's bias has a true gradient of zero, and Adam blows rounding up to full steps
            generator = torch.Generator().manual_seed(step)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.process
def test_a_withheld_update_changes_nothing_and_hooks_see_every_step() -> None:
    model = models.build(SHAPE, seed=5)
    optimizer = AdamW(model.parameters(), learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    seen: list[object] = []
    optimizer.register_step_post_hook(lambda *args: seen.append(args))
    _grads(model)
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer.withhold.fill_(1.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(float(state["exp_avg"].abs().max()) == 0 for state in optimizer.state.values())
    assert float(optimizer.step_count) == 0
    optimizer.withhold.zero_()
    optimizer.step()
    assert not torch.equal(before[0], next(iter(model.parameters())))
    assert len(seen) == 2


def test_config_json_is_json(tmp_path: Path) -> None:
    models.build(SHAPE, seed=1).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_layer"] == SHAPE.layers
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode
