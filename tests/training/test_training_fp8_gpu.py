"""FP8 on a real GPU of compute capability 8.9 or later, against float32 and against our kernels in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ongpu.training.config import Config
from ongpu.training.step import gradients
from tests.training.test_training_kernels_gpu import MODELS, SETTINGS, forget_the_end, off, random, stream, train

# Triton starts an assembler and a C compiler
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.process,
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="this GPU has no float8"
    ),
]

KEPT = {torch.float8_e4m3fn: 0.035, torch.float8_e5m2: 0.07}
"""Rounding to three bits behind the point, or to two, as a share of the whole tensor, with some room."""
WORST = 0.25
"""Of a weight's gradient beside bfloat16's; 0.16 was the most where float8 was emulated on a CPU."""


def with_outlier(*shape: int, seed: int) -> Any:
    made = random(*shape, seed=seed)
    made[shape[0] // 2, shape[1] // 3] = 60.0
    return made


@pytest.mark.parametrize("kind", list(KEPT))
@pytest.mark.parametrize("shape", [(64, 48), (300, 208), (16384, 2048), (768, 3072), (1, 16)])
def test_a_cast_in_both_orders(kind: torch.dtype, shape: tuple[int, int]) -> None:
    from ongpu.training import fp8_cast

    x = with_outlier(*shape, seed=1)
    same, turned, scale = fp8_cast.cast(x, kind)
    largest = torch.finfo(kind).max
    assert float(scale) == pytest.approx(float(x.abs().max()) / largest, rel=1e-5)
    assert float(same.float().abs().max()) == largest
    assert torch.equal(turned.float(), same.float().t())
    assert off(same.float() * scale, x) < KEPT[kind]
    # which value is near a tie depends on the last bit of the scale
    assert float((same.float() != (x.float() / scale).to(kind).float()).float().mean()) < 1e-2
    again = fp8_cast.cast(x, kind)
    assert torch.equal(again[0].view(torch.uint8), same.view(torch.uint8))


def test_what_is_not_finite_stays_so_and_zeros_stay_zeros() -> None:
    from ongpu.training import fp8_cast

    for kind in KEPT:
        zeros = fp8_cast.cast(torch.zeros(64, 64, dtype=torch.bfloat16, device="cuda"), kind)
        assert not zeros[0].float().any()
        assert torch.isfinite(zeros[2])
        for bad in (float("nan"), float("inf"), -float("inf")):
            x = random(64, 64)
            x[5, 7] = bad
            same, turned, scale = fp8_cast.cast(x, kind)
            assert not torch.isfinite(same.float()[5, 7] * scale)
            assert not torch.isfinite(turned.float()[7, 5] * scale)


@pytest.mark.parametrize("outputs_first", [True, False])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(64, 48, 32), (704, 768, 2304), (4096, 2048, 16384)])
def test_a_product_and_its_slopes(tokens: int, inputs: int, outputs: int, *, outputs_first: bool) -> None:
    from ongpu.training import fp8, fp8_cast

    x, slope = with_outlier(tokens, inputs, seed=1), with_outlier(tokens, outputs, seed=2)
    weight = with_outlier(outputs, inputs, seed=3)
    weight = weight.t() if outputs_first else weight.t().contiguous()
    x, weight = (one.detach().requires_grad_() for one in (x, weight))
    out = fp8.Product.apply(x, weight, fp8.Weight(fp8_cast.cast))
    to_x, to_weight = torch.autograd.grad(out, (x, weight), slope)
    exact = [one.detach().float() for one in (x, weight, slope)]
    # bfloat16 alone would be off by less than 0.003; where one outlier is most of a small product, so is float8 almost
    assert 0.003 < off(out, exact[0] @ exact[1]) < 0.05
    assert 0.003 < off(to_x, exact[2] @ exact[1].t()) < 0.08
    assert 0.003 < off(to_weight, exact[0].t() @ exact[2]) < 0.08
    assert to_weight.stride() == weight.stride()


@pytest.mark.parametrize("kind", list(MODELS))
def test_gradients_beside_those_in_bfloat16(kind: str) -> None:
    from ongpu.training import fp8, fp8_cast
    from ongpu.training.flat import FlatAdamW, FlatWeights

    (batch,) = stream().step(1)
    found: dict[bool, tuple[float, dict[str, Any]]] = {}
    for small in (False, True):
        model = MODELS[kind]().cuda()
        model.fuse()
        weights = FlatWeights(model, device="cuda")
        if small:
            weights.small = fp8.attach(model, fp8_cast.cast)
        optimizer = FlatAdamW(weights, **SETTINGS)
        config = Config(max_grad_norm=0.0)
        loss, _ = gradients(weights, optimizer, [batch.to("cuda")], config=config).tolist()
        found[small] = loss, {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert found[True][0] == pytest.approx(found[False][0], rel=5e-3)
    assert found[True][0] != found[False][0]
    for name, gradient in found[False][1].items():
        assert off(found[True][1][name], gradient) < WORST, name


def test_a_run_beside_one_in_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train(tmp_path / "plain", max_steps=30)
    capsys.readouterr()
    recorded = train(tmp_path / "recorded", "--fp8", max_steps=30, kernels="auto")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Choice:")]
    assert len(told) == 1
    assert "float8: yes" in told[0]
    assert recorded == pytest.approx(plain, rel=3e-2)
    assert recorded != plain
    facts = json.loads((tmp_path / "recorded" / "out" / "run.json").read_text())
    assert facts["step_recorded"] is True
    assert facts["config"]["fp8"] is True
    assert any(choice.startswith("products of the blocks in float8: yes") for choice in facts["choices"])
    assert train(tmp_path / "launched", fp8=True, cuda_graph="never", max_steps=30) == recorded


def test_micro_steps_resume_and_twice_computed_blocks(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", fp8=True, batch_size=6)
    parts = train(tmp_path / "parts", fp8=True, batch_size=2, grad_accumulation_steps=3)
    assert parts == pytest.approx(whole, rel=2e-2)
    assert train(tmp_path / "twice", fp8=True, batch_size=6, recompute_blocks=True) == pytest.approx(whole, rel=1e-2)
    train(tmp_path / "resumed", fp8=True, batch_size=6, save_every=5)
    forget_the_end(tmp_path / "resumed" / "out")
    assert train(tmp_path / "resumed", "--resume", fp8=True, batch_size=6, save_every=5) == whole
