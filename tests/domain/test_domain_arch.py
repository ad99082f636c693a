"""Which code runs on which device: every row is NVIDIA's rule or what ptxas and torch.cuda state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, Fit, RuntimeVersion, best_fit, runs

CUDA_13_2 = RuntimeVersion(major=13, minor=2)
CAPABILITIES = ["5.0", "5.2", "5.3", "6.1", "7.0", "7.2", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3",
                "10.7", "11.0", "12.0", "12.1"]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "device", "expected"),
    [
        ("sm_86", "8.9", Fit.NATIVE),  # same major, higher minor: an RTX 4090 runs sm_86 code
        ("sm_86", "8.0", Fit.NONE),  # never a lower minor
        ("sm_90", "10.0", Fit.NONE),  # never another major
        ("sm_60", "6.1", Fit.NATIVE),
        ("sm_100", "10.3", Fit.NATIVE),
        ("sm_100", "11.0", Fit.NONE),
        ("sm_120", "12.1", Fit.NATIVE),  # GB10 runs sm_120 code
        ("sm_90a", "9.0", Fit.NATIVE),
        ("sm_120a", "12.1", Fit.NONE),  # 'a' is this chip only
        ("sm_100f", "10.7", Fit.NATIVE),
        ("sm_103f", "10.0", Fit.NONE),
        ("sm_120f", "12.1", Fit.NATIVE),
        ("compute_90", "12.0", Fit.JIT),
        ("compute_90a", "12.0", Fit.NONE),
        ("compute_100f", "10.3", Fit.JIT),
        ("compute_100f", "12.0", Fit.NONE),
        ("compute_120", "11.0", Fit.NONE),  # PTX never helps a lower capability
        ("lto_75", "9.0", Fit.JIT),
        ("sm_80", "8.7", Fit.NONE),  # Orin, before the unification
        ("sm_87", "8.9", Fit.NONE),
        ("sm_87", "8.7", Fit.NATIVE),
        ("sm_101", "11.0", Fit.NATIVE),  # Thor under its old name
        ("sm_110", "10.1", Fit.NATIVE),
    ],
)
def test_runs(target: str, device: str, expected: Fit) -> None:
    assert runs(CodeTarget.parse(target), ComputeCapability.parse(device)) is expected


def test_jetson_exception_is_lifted_from_cuda_13_2() -> None:
    sm_80, orin = CodeTarget.parse("sm_80"), ComputeCapability.parse("8.7")
    assert runs(sm_80, orin, runtime=RuntimeVersion(major=13, minor=0)) is Fit.NONE
    assert runs(sm_80, orin, runtime=CUDA_13_2) is Fit.NATIVE


def test_cu124_targets_give_an_rtx_5090_nothing() -> None:
    cu124 = [CodeTarget.parse(f"sm_{n}") for n in (50, 60, 70, 75, 80, 86, 90)]
    assert best_fit(cu124, ComputeCapability.parse("12.0")) is Fit.NONE
    assert best_fit([], ComputeCapability.parse("12.0")) is Fit.NONE


targets = st.builds(
    CodeTarget,
    st.sampled_from(CodeKind),
    st.sampled_from([ComputeCapability.parse(text).number for text in CAPABILITIES]),
    st.sampled_from(["", "a", "f"]),
)
devices = st.sampled_from(CAPABILITIES).map(ComputeCapability.parse)


@given(st.lists(targets), targets, devices)
def test_more_code_never_makes_a_fit_worse(have: list[CodeTarget], more: CodeTarget, device: ComputeCapability) -> None:
    order = list(Fit)
    assert order.index(best_fit([*have, more], device)) <= order.index(best_fit(have, device))


@given(targets, devices)
def test_an_own_target_always_runs_and_text_round_trips(target: CodeTarget, device: ComputeCapability) -> None:
    assert CodeTarget.parse(str(target)) == target
    own = CodeTarget(target.kind, device.number, target.suffix)
    assert runs(own, device) is not Fit.NONE


@pytest.mark.parametrize("text", ["", "120", "sm_120", "12", "12.0.1", "12.10", "a.b", "-1.0"])
def test_what_is_no_compute_capability_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="compute capability"):
        ComputeCapability.parse(text)


@pytest.mark.parametrize("text", ["12.0", "sm_", "sm_120b", "compute120", "gfx90a"])
def test_what_is_no_code_target_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="code target"):
        CodeTarget.parse(text)


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ComputeCapability(9, 0).major = 10
    with pytest.raises(AttributeError):
        CodeTarget.parse("sm_90").suffix = "a"
