"""FP8 without a GPU: the option, its refusal, and the arithmetic of ``fp8.py`` with a cast written in torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ongpu.errors import UsageError
from ongpu.training import fp8, gpt2, policy, toolchain
from ongpu.training.config import Config, parse
from ongpu.training.main import main

FAST = dataclasses.replace(Config(), precision="bfloat16", packing=True, fp8=True)
CASTS: list[tuple[int, ...]] = []


def cast(x: Any, kind: torch.dtype) -> tuple[Any, Any, Any]:
    CASTS.append(tuple(x.shape))
    scale = x.float().abs().max() / torch.finfo(kind).max
    small = (x.float() / scale).to(kind)
    return small, small.t().contiguous(), scale


def off(ours: Any, reference: Any) -> float:
    return float((ours.detach().float() - reference).norm() / reference.norm())


@pytest.mark.parametrize("outputs_first", [True, False])
def test_a_product_and_its_slopes(*, outputs_first: bool) -> None:
    random = torch.Generator().manual_seed(1)
    x, slope, weight = (
        torch.randn(*shape, generator=random).to(torch.bfloat16) for shape in ((64, 48), (64, 32), (32, 48))
    )
    weight = weight.t() if outputs_first else weight.t().contiguous()
    x[3, 5] = 40.0  # one far from the others
    leaves = [one.detach().requires_grad_() for one in (x, weight)]
    small = fp8.Weight(cast)
    CASTS.clear()
    out: Any = fp8.Product.apply(*leaves, small)
    made = torch.autograd.grad(out, leaves, slope)
    assert out.dtype == torch.bfloat16
    expected = x.float() @ weight.float(), slope.float() @ weight.float().t(), x.float().t() @ slope.float()
    # of values three bits behind the point are kept, of slopes two
    for ours, reference, most in zip((out, *made), expected, (0.05, 0.08, 0.08), strict=True):
        assert ours.shape == reference.shape
        assert 1e-3 < off(ours, reference) < most
    assert made[1].stride() == weight.stride()  # or adding it to the weight's gradient would copy it
    assert len(CASTS) == 3
    small.multiply(x, weight)
    assert len(CASTS) == 4  # the weight is cast once
    assert torch.equal(small.multiply(x, 2 * weight)[0], out)
    small.forget()
    assert not torch.equal(small.multiply(x, 2 * weight)[0], out)
    bias = torch.full((32,), 3.0, dtype=torch.bfloat16)
    small.forget()
    assert off(small.multiply(x.detach(), weight, bias)[0], out.detach().float() + 3.0) < 0.01


def test_every_block_gets_weights_of_its_own() -> None:
    model = gpt2.build(gpt2.tiny_shape(vocab_size=64, end_id=0), seed=1)
    made = fp8.attach(model, cast)
    assert len(made) == len({id(one) for one in made}) == 4 * model.shape.layers
    assert list(model.transformer.h[1].small) == made[4:8]


def test_it_is_an_option_and_never_chosen() -> None:
    assert parse("fp8: true", name="job.yaml").fp8
    assert not Config().fp8
    long = dataclasses.replace(FAST, fp8=False, max_steps=100_000)
    left = policy.choose(long, device="cuda", native=True)
    assert not left.fp8.taken
    assert left.said == ()
    taken = policy.choose(FAST, device="cuda", native=True)
    assert taken.fp8.taken
    assert taken.kernels.taken  # 50 steps alone would not earn them back
    assert [str(one) for one in taken.said] == [
        "products of the blocks in float8: yes, the configuration asks for it; all else stays bfloat16 and float32"
    ]
    assert taken.fp8 in taken.choices


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kernels": "never"}, "the configuration says never"),
        ({"packing": False}, "they are for packed rows"),
        ({"precision": "float32"}, "they are for bfloat16"),
        ({"compile": "always"}, "blocks compiled"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why) as found:
        policy.choose(dataclasses.replace(FAST, **changes), device="cuda", native=True)
    assert found.value.next_step.startswith("Leave fp8 out")


def test_an_older_gpu_a_cpu_and_a_foreign_model_are_refused() -> None:
    for options, why in (
        ({"device": "cpu", "native": True}, "the device is not a GPU"),
        ({"device": "cuda", "native": False}, "a model of transformers"),
        ({"device": "cuda", "native": True, "unfused": "Triton is not installed"}, "Triton is not installed"),
        ({"device": "cuda", "native": True, "without_float8": "it needs compute capability"}, "needs compute"),
    ):
        with pytest.raises(UsageError, match=why):
            policy.choose(FAST, **options)  # type: ignore[arg-type]
    needs = toolchain.missing_for_float8
    assert needs(capability=(8, 6), widths=(64,)).endswith("this GPU has 8.6")
    assert "this model has 72" in needs(capability=(9, 0), widths=(64, 72))
    assert needs(capability=(8, 9), widths=(64, 256)) == ""


def test_on_a_cpu_the_command_ends_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--output", str(tmp_path / "out"), "--device", "cpu", "--fp8", "--max_steps", "1"]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: fp8 was asked for and cannot be had: it goes with the kernels of our own")
    assert error.count("next: Leave fp8 out") == 1
