"""The catalog and the rule of ``domain.arch`` beside the tables torch carries itself: a source neither was made from.

The tables are what stands in ``torch/cuda/__init__.py`` of the PyPI wheels of 2.13.0, 2.14.1 and 2.15.0 (read in
parts on 2026-11-22): ``PYTORCH_RELEASES_CODE_CC`` and ``DEVICE_REQUIREMENT``. Where torch is wrong, it is said.
"""

from __future__ import annotations

import pytest

from ongpu import catalog
from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, Fit, RuntimeVersion, runs

_NEW = {75, 80, 86, 90, 100, 120}
_OLD = {50, 60, 70, 75, 80, 86, 90}
_ARM13 = {80, 90, 100, 110, 120}
TABLES = {
    "2.13.0": {
        "cu126": (_OLD, {80, 90}),
        "cu129": (_NEW, {80, 90, 100, 120}),
        "cu130": (_NEW, _ARM13),
        "cu132": (_NEW, _ARM13),
    },
    "2.14.1": {
        "cu126": (_OLD, {80, 90}),
        "cu130": (_NEW, _ARM13),
        "cu132": (_NEW, _ARM13),
        "cu134": (_NEW, _ARM13),
    },
    "2.15.0": {
        "cu126": (_OLD, {80, 90}),
        "cu130": (_NEW, _ARM13),
        "cu132": (_NEW, _ARM13),
        "cu134": (_NEW, _ARM13),
    },
}
# torch names these, and they do not exist: 2.15 has no CUDA 12 build (pytorch PR 196249), 2.14's 13.4 was withdrawn.
NOT_THERE = {("2.15.0", "cu126"), ("2.14.1", "cu134")}

# code number -> the devices it serves, of those known: intervals of the same major, Jetson apart.
DEVICES = (37, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
SERVES = {
    50: {50, 52},
    52: {52},
    53: {53},
    60: {60, 61},
    61: {61},
    62: {62},
    70: {70, 75},
    72: {72},
    75: {75},
    80: {80, 86, 89},
    86: {86, 89},
    87: {87},
    89: {89},
    90: {90},
    100: {100, 103},
    101: {110},
    103: {103},
    110: {110},
    120: {120, 121},
    121: {121},
}
# From CUDA 13.2 on (read in 2.14.1 and 2.15.0).
SERVES_UNIFIED = SERVES | {70: {70, 72, 75}, 80: {80, 86, 87, 89}, 86: {86, 87, 89}}


@pytest.mark.parametrize("release", TABLES)
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_catalog_says_what_torch_says_of_itself(release: str, arch: str) -> None:
    ours = {
        one.cuda_tag: {target.number for target in one.targets if target.kind is CodeKind.SASS}
        for one in catalog.load().builds
        if (one.torch, one.os, one.arch) == (release, "linux", arch) and one.cuda_tag != "cpu"
    }
    theirs = {tag: lists[arch == "aarch64"] for tag, lists in TABLES[release].items()}
    assert ours == {tag: numbers for tag, numbers in theirs.items() if (release, tag) not in NOT_THERE}


@pytest.mark.parametrize(("runtime", "table"), [("13.0", SERVES), ("13.2", SERVES_UNIFIED)])
def test_code_runs_where_torch_says_it_does(runtime: str, table: dict[int, set[int]]) -> None:
    for code, devices in table.items():
        target = CodeTarget(CodeKind.SASS, code)
        for device in DEVICES:
            capability = ComputeCapability(device // 10, device % 10)
            fit = runs(target, capability, runtime=RuntimeVersion.parse(runtime))
            assert (fit is Fit.NATIVE) == (device in devices), f"{target} on {capability} with CUDA {runtime}"
