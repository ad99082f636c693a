"""When two GPU names mean the same model: a wrong yes here is a false proof of ``--expect-gpu``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu import catalog
from ongpu.domain.gpu_name import same_gpu, same_model
from ongpu.domain.verdict import Outcome

GIB = 1 << 30
NAMES = [one.name for one in catalog.load().gpus]


@pytest.mark.parametrize(
    ("expected", "seen", "outcome"),
    [
        ("RTX 5090", "NVIDIA GeForce RTX 5090", Outcome.PROVEN),
        ("rtx5090", "NVIDIA GeForce RTX 5090", Outcome.PROVEN),
        ("NVIDIA GeForce RTX 5090", "NVIDIA GeForce RTX 5090", Outcome.PROVEN),
        ("GeForce RTX(TM) 5090", "NVIDIA GeForce RTX 5090", Outcome.PROVEN),
        ("RTX 5090", "NVIDIA GeForce RTX 5090 D", Outcome.REFUTED),
        ("RTX 5090", "NVIDIA GeForce RTX 5090 D v2", Outcome.REFUTED),
        ("RTX 5090", "NVIDIA GeForce RTX 5090 Laptop GPU", Outcome.REFUTED),
        ("RTX 5090 D", "NVIDIA GeForce RTX 5090", Outcome.REFUTED),
        ("RTX 5090D", "NVIDIA GeForce RTX 5090 D", Outcome.PROVEN),
        ("RTX 5090", "NVIDIA H100 80GB HBM3", Outcome.REFUTED),
        ("RTX 5090", "NVIDIA GeForce RTX 5080", Outcome.REFUTED),
        ("5090", "NVIDIA GeForce RTX 5090", Outcome.REFUTED),
        ("RTX 3050 Ti", "NVIDIA GeForce RTX 3050Ti Laptop GPU", Outcome.REFUTED),
        ("RTX 3050 Ti Laptop", "NVIDIA GeForce RTX 3050Ti Laptop GPU", Outcome.PROVEN),
        ("Quadro RTX 6000", "NVIDIA RTX 6000 Ada Generation", Outcome.REFUTED),
        ("GeForce T4", "Tesla T4", Outcome.REFUTED),
        ("Tesla T4", "NVIDIA T4", Outcome.PROVEN),
        ("RTX A6000", "NVIDIA RTX 6000 Ada Generation", Outcome.REFUTED),
        ("TITAN X", "NVIDIA TITAN X (Pascal)", Outcome.REFUTED),
        ("H100", "NVIDIA H100 80GB HBM3", Outcome.PROVEN),
        ("H100 80GB HBM3", "NVIDIA H100 80GB HBM3", Outcome.PROVEN),
        ("H100", "NVIDIA H100 PCIe", Outcome.PROVEN),
        ("H100 PCIe", "NVIDIA H100 PCIe", Outcome.PROVEN),
        ("H100 NVL", "NVIDIA H100 NVL", Outcome.PROVEN),
        ("H100 PCIe", "NVIDIA H100 NVL", Outcome.REFUTED),
        ("H100 SXM", "NVIDIA H100 80GB HBM3", Outcome.UNKNOWN),
        ("H100", "NVIDIA H200", Outcome.REFUTED),
        ("H100", "NVIDIA GH200 480GB", Outcome.REFUTED),
        ("H20", "NVIDIA H20-3e", Outcome.REFUTED),
        ("L40", "NVIDIA L40S", Outcome.REFUTED),
        ("A10", "NVIDIA A10G", Outcome.REFUTED),
        ("A100", "NVIDIA A100-SXM4-80GB", Outcome.PROVEN),
        ("A100 SXM", "NVIDIA A100-SXM4-80GB", Outcome.PROVEN),
        ("A100 40GB", "NVIDIA A100-SXM4-80GB", Outcome.REFUTED),
        ("A100", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", Outcome.REFUTED),
        ("V100", "Tesla V100-SXM2-16GB", Outcome.PROVEN),
        ("V100", "Tesla V100S-PCIE-32GB", Outcome.REFUTED),
        ("P100", "Tesla P100-PCIE-16GB", Outcome.PROVEN),
        ("B300", "NVIDIA B300 SXM6 AC", Outcome.PROVEN),
        ("", "NVIDIA H100", Outcome.REFUTED),
        ("NVIDIA", "NVIDIA H100", Outcome.REFUTED),
        ("H100", "", Outcome.UNKNOWN),
        ("H100", "Graphics", Outcome.UNKNOWN),
    ],
)
def test_a_name_is_the_model_or_it_is_not(expected: str, seen: str, outcome: Outcome) -> None:
    match = same_model(expected, seen)
    assert match.outcome is outcome
    assert match.reason


def test_the_memory_refutes_what_the_name_confirms() -> None:
    def with_memory(seen_gib: float) -> Outcome:
        return same_model(
            "RTX 5090",
            "NVIDIA GeForce RTX 5090",
            expected_memory_bytes=32 * GIB,
            seen_memory_bytes=int(seen_gib * GIB),
        ).outcome

    assert with_memory(31.84) is Outcome.PROVEN
    assert with_memory(24) is Outcome.REFUTED
    assert with_memory(8) is Outcome.REFUTED


def test_a_typed_size_is_compared_with_the_memory_where_the_name_has_none() -> None:
    assert same_model("H100 80GB", "NVIDIA H100 PCIe").outcome is Outcome.UNKNOWN
    assert same_model("H100 80GB", "NVIDIA H100 PCIe", seen_memory_bytes=int(79.6 * GIB)).outcome is Outcome.PROVEN
    assert same_model("H100 80GB", "NVIDIA H100 NVL", seen_memory_bytes=int(93.6 * GIB)).outcome is Outcome.REFUTED


@pytest.mark.parametrize("name", NAMES)
def test_every_known_model_is_itself(name: str) -> None:
    assert same_model(name, name).outcome is Outcome.PROVEN


@given(one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_two_models_of_different_capability_are_never_one(one: str, other: str) -> None:
    rows = {row.name: row.compute_capability for row in catalog.load().gpus}
    if rows[one] != rows[other]:
        assert same_model(one, other).outcome is not Outcome.PROVEN


@given(expected=st.text(max_size=30), seen=st.text(max_size=30))
def test_any_text_gets_an_answer(expected: str, seen: str) -> None:
    assert same_model(expected, seen).reason


UUID = "GPU-aaaaaaaa-0000-1111-2222-333333333333"


@pytest.mark.parametrize(
    ("expected", "uuid", "outcome"),
    [
        (UUID, UUID, Outcome.PROVEN),
        (UUID.replace("a", "A"), UUID, Outcome.PROVEN),
        (UUID, UUID.replace("a", "b"), Outcome.REFUTED),
        (UUID[:20], UUID, Outcome.REFUTED),
        (UUID, None, Outcome.UNKNOWN),
        ("H100", UUID, Outcome.PROVEN),
        ("A100", UUID, Outcome.REFUTED),
    ],
)
def test_one_very_gpu_can_be_expected(expected: str, uuid: str | None, outcome: Outcome) -> None:
    assert same_gpu(expected, name="NVIDIA H100 PCIe", uuid=uuid, memory_bytes=None).outcome is outcome
