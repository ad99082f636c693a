"""What coverage means for a device: the wrong conclusions to avoid, one test each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, Fit, RuntimeVersion, runs
from ongpu.domain.coverage import (
    BinaryCoverage,
    CodeVerdict,
    ContainerGroup,
    PackageCoverage,
    Role,
    ScanReport,
    TargetCount,
)
from ongpu.scan import failing, judge_binary, judge_coverage, judge_package
from ongpu.scan.isa import cuda_of_isa

T4, A100, RTX4090, H100, B200, B300, RTX5090, GB10 = (
    ComputeCapability.parse(text) for text in ("7.5", "8.0", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")
)


def binary(*groups: tuple[int, str], path: str = "lib.so", isa: str = "9.0", **more: Any) -> BinaryCoverage:
    """A file of containers: how many, and the targets of each; a target in brackets holds no kernel."""
    built: list[ContainerGroup] = []
    counts: dict[CodeTarget, int] = {}
    for count, text in groups:
        words = text.split()
        full = tuple(sorted(CodeTarget.parse(word) for word in words if not word.startswith("(")))
        empty = tuple(sorted(CodeTarget.parse(word.strip("()")) for word in words if word.startswith("(")))
        built.append(ContainerGroup(targets=full, empty=empty, count=count, outside="outside" in more))
        for target in (*full, *empty):
            counts[target] = counts.get(target, 0) + count
    more.pop("outside", None)
    rows = {
        kind: tuple(
            TargetCount(target=target, count=count, isa=isa if kind is CodeKind.PTX else None)
            for target, count in sorted(counts.items())
            if target.kind is kind
        )
        for kind in CodeKind
    }
    return BinaryCoverage(
        path=path,
        format="elf",
        sass=rows[CodeKind.SASS],
        ptx=rows[CodeKind.PTX],
        lto=rows[CodeKind.LTO],
        ptx_isa=isa if rows[CodeKind.PTX] else None,
        groups=tuple(built),
        **more,
    )


def package(*binaries: BinaryCoverage, name: str = "package") -> PackageCoverage:
    return PackageCoverage(name=name, version="1", binaries=binaries)


def verdict_of(found: BinaryCoverage, device: ComputeCapability, **more: Any) -> CodeVerdict:
    return judge_binary(found, device, **more).verdict


TORCH = binary((416, "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"), (59, "sm_75 sm_80 sm_86 sm_90 sm_100 sm_100a sm_120"))


@pytest.mark.parametrize("device", [T4, A100, RTX4090, H100, B200, B300, RTX5090, GB10])
def test_scan_code_of_a_lower_minor_runs(device: ComputeCapability) -> None:
    assert verdict_of(TORCH, device) is CodeVerdict.NATIVE


def test_scan_no_ptx_and_another_major_is_a_hard_stop() -> None:
    old = binary((10, "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"))
    fit = judge_binary(old, RTX5090)
    assert fit.verdict is CodeVerdict.NONE
    assert "no PTX" in fit.reason
    assert fit.missing == fit.containers == 10


def test_scan_arch_specific_code_is_exact() -> None:
    ort = binary((292, "sm_90a"), (100, "sm_75 sm_80 sm_86 sm_89 sm_90a sm_120a"))
    assert verdict_of(ort, H100) is CodeVerdict.NATIVE
    assert verdict_of(ort, RTX5090) is CodeVerdict.NATIVE
    for device in (B200, B300, GB10):
        assert verdict_of(ort, device) is CodeVerdict.NONE


def test_scan_ptx_only_is_compiled_at_first_use() -> None:
    found = binary((18, "sm_70 sm_80 compute_80"), isa="7.8")
    fit = judge_binary(found, RTX5090)
    assert fit.verdict is CodeVerdict.JIT
    assert "CUDA 11.8" in fit.reason


def test_scan_ptx_newer_than_the_driver_is_none() -> None:
    found = binary((18, "sm_80 compute_90"), isa="9.0")
    too_old = judge_binary(found, RTX5090, driver_cuda=RuntimeVersion.parse("12.8"))
    assert too_old.verdict is CodeVerdict.NONE
    assert "newer than the driver's CUDA version 12.8" in too_old.reason
    assert verdict_of(found, RTX5090, driver_cuda=RuntimeVersion.parse("13.0")) is CodeVerdict.JIT


def test_scan_ptx_does_nothing_for_an_older_device() -> None:
    assert verdict_of(binary((5, "sm_100 compute_120")), H100) is CodeVerdict.NONE


def test_scan_a_union_over_the_file_hides_gaps() -> None:
    xgboost = binary((41, "sm_50 sm_60 sm_70 sm_80 compute_80"), (363, "sm_50 sm_60 sm_70 sm_80"), isa="8.0")
    fit = judge_binary(xgboost, H100)
    assert fit.verdict is CodeVerdict.PARTIAL
    assert (fit.missing, fit.containers) == (363, 404)
    assert verdict_of(xgboost, A100) is CodeVerdict.NATIVE


def test_scan_gaps_of_dispatching_libraries_are_normal() -> None:
    groups = ((868, "sm_90a sm_120f"), (780, "sm_100"), (273, "sm_90a"), (90, "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"))
    assert verdict_of(binary(*groups, path="libcublasLt.so.13"), RTX4090) is CodeVerdict.NATIVE
    assert verdict_of(binary(*groups, path="other.so"), RTX4090) is CodeVerdict.NATIVE


def test_scan_code_compiled_out_is_no_gap() -> None:
    found = binary((10, "sm_75 sm_80 sm_90"), (3, "(sm_75) sm_80 sm_90"))
    assert verdict_of(found, T4) is CodeVerdict.NATIVE
    real = binary((10, "sm_75 sm_80 sm_90"), (3, "sm_80 sm_90 sm_100"))
    assert verdict_of(real, T4) is CodeVerdict.PARTIAL


def test_scan_default_arch_dummy_is_no_coverage() -> None:
    dummy = binary((1, "(sm_75) (compute_75)"))
    fit = judge_binary(dummy, RTX5090)
    assert fit.verdict is CodeVerdict.NO_CODE
    assert "no kernel" in fit.reason


def test_scan_lto_counts_like_ptx() -> None:
    cufft = binary((12728, "lto_75"), path="libcufft.so.12", outside=True)
    assert verdict_of(cufft, RTX5090) is CodeVerdict.JIT
    assert verdict_of(cufft, ComputeCapability.parse("7.0")) is CodeVerdict.NONE


def test_scan_one_library_without_code_makes_the_package_partial_and_is_named() -> None:
    linalg = binary((65, "sm_80 sm_86 sm_90 sm_100 sm_120"), path="torch/lib/libtorch_cuda_linalg.so")
    torch = package(TORCH, linalg, name="torch")
    on_t4 = judge_package(torch, T4)
    assert on_t4.verdict is CodeVerdict.PARTIAL
    assert on_t4.without == ("torch/lib/libtorch_cuda_linalg.so",)
    assert judge_package(torch, RTX4090).verdict is CodeVerdict.NATIVE


def test_scan_files_for_one_chip_beside_others_are_no_fault() -> None:
    vllm = package(binary((9, "sm_80 sm_90 sm_120")), binary((4, "sm_90a"), path="_flash_hopper.so"))
    assert judge_package(vllm, RTX5090).verdict is CodeVerdict.NATIVE
    assert judge_package(package(binary((4, "sm_90a"))), RTX5090).verdict is CodeVerdict.NONE


def test_scan_bitsandbytes_is_judged_by_the_file_that_would_load() -> None:
    old = binary((1, "sm_75 sm_80 sm_90"), path="bitsandbytes/libbitsandbytes_cuda124.so")
    new = binary((1, "sm_75 sm_80 sm_90 sm_120"), path="bitsandbytes/libbitsandbytes_cuda128.so")
    both = package(old, new)
    judged = {
        text: judge_package(both, RTX5090, runtime=RuntimeVersion.parse(text)).verdict
        for text in ("12.4", "12.6", "12.8", "12.9")
    }
    assert judged == {
        "12.4": CodeVerdict.NONE,
        "12.6": CodeVerdict.NONE,
        "12.8": CodeVerdict.NATIVE,
        "12.9": CodeVerdict.NATIVE,
    }
    unknown = judge_package(both, RTX5090)
    assert unknown.verdict is CodeVerdict.UNKNOWN
    assert "libbitsandbytes_cuda128.so" in unknown.reason
    assert judge_package(both, A100).verdict is CodeVerdict.NATIVE


def test_scan_loose_cubins_are_one_library() -> None:
    cubins = [binary((1, f"sm_{number}"), path=f"cubins/{number}.cubin") for number in ("80", "90a", "100a")]
    loose = package(*(BinaryCoverage(path=c.path, format="cubin", sass=c.sass, groups=c.groups) for c in cubins))
    assert judge_package(loose, H100).verdict is CodeVerdict.NATIVE
    assert judge_package(loose, RTX5090).verdict is CodeVerdict.NONE


@pytest.mark.parametrize("role", [Role.LINK_INPUT, Role.TOOL])
def test_scan_what_no_program_runs_is_not_judged(role: Role) -> None:
    fit = judge_package(package(binary((3, "sm_35 sm_50"), role=role)), RTX5090)
    assert fit.verdict is CodeVerdict.NO_CODE


def test_scan_no_cuda_code_is_not_unsupported() -> None:
    report = ScanReport(target="x", packages=(package(name="triton"), package(TORCH, name="torch")))
    verdict = judge_coverage(report, [RTX5090])
    by_name = {one.name: one for one in verdict.packages}
    assert by_name["triton"].fits[0].verdict is CodeVerdict.NO_CODE
    assert "run time" in (by_name["triton"].note or "")
    assert verdict.overall[0].verdict is CodeVerdict.NATIVE
    assert not failing(verdict, fail_on=CodeVerdict.JIT)


def test_scan_unreadable_is_unknown_and_never_passes() -> None:
    broken = BinaryCoverage(path="x.so", format="elf", problems=("the section table is cut off",))
    report = ScanReport(target="x", packages=(package(broken),))
    verdict = judge_coverage(report, [RTX5090])
    assert verdict.overall[0].verdict is CodeVerdict.UNKNOWN
    assert failing(verdict, fail_on=CodeVerdict.PARTIAL)


def test_scan_gate_fails_on_what_was_asked() -> None:
    report = ScanReport(
        target="x",
        packages=(
            package(TORCH, name="good"),
            package(binary((1, "sm_80 compute_80"), isa="7.8"), name="compiled"),
            package(binary((1, "sm_80")), name="bad"),
        ),
    )
    verdict = judge_coverage(report, [RTX5090])
    assert [name for name, _ in failing(verdict, fail_on=CodeVerdict.NONE)] == ["bad"]
    assert {name for name, _ in failing(verdict, fail_on=CodeVerdict.JIT)} == {"bad", "compiled"}
    assert verdict.overall[0].verdict is CodeVerdict.NONE
    assert verdict.overall[0].reason == "bad"


def test_scan_ptx_versions_of_known_toolkits() -> None:
    assert str(cuda_of_isa("7.8")) == "11.8"
    assert str(cuda_of_isa("8.5")) == "12.5"
    assert str(cuda_of_isa("8.8")) == "12.9"
    assert str(cuda_of_isa("9.0")) == "13.0"
    assert str(cuda_of_isa("9.1")) == "13.1"
    assert cuda_of_isa("10.0") is None
    assert cuda_of_isa("text") is None


targets = st.builds(
    CodeTarget,
    st.sampled_from(list(CodeKind)),
    st.sampled_from([50, 60, 61, 70, 75, 80, 86, 87, 89, 90, 100, 101, 103, 110, 120, 121]),
    st.sampled_from(["", "a", "f"]),
)
devices = st.sampled_from([T4, A100, RTX4090, H100, B200, B300, RTX5090, GB10])


@given(st.lists(st.lists(targets, min_size=1, max_size=6), min_size=1, max_size=6), devices)
def test_scan_verdict_never_says_more_than_the_rule(
    containers: list[list[CodeTarget]], device: ComputeCapability
) -> None:
    found = binary(*((1, " ".join(str(one) for one in dict.fromkeys(one))) for one in containers), path="any.so")
    verdict = judge_binary(found, device).verdict
    every = {runs(target, device) for container in containers for target in container}
    if every == {Fit.NONE}:
        assert verdict is CodeVerdict.NONE
    else:
        assert verdict in {CodeVerdict.NATIVE, CodeVerdict.JIT, CodeVerdict.PARTIAL}
    if verdict is CodeVerdict.NATIVE:
        assert Fit.NATIVE in every
