"""Commands that people are given, judged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu import catalog
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan import CommandReport, described, judge_command

CATALOG = catalog.load()
INDEX = "https://download.pytorch.org/whl"


def judged(
    command: str, gpu: str = "RTX 5090", *, os: str = "linux", driver: str = "580.95.05", python: str = "3.11"
) -> CommandReport:
    machine = described(catalog=CATALOG, gpus=[gpu], os=os, driver=driver, python=python)
    return judge_command(command, machine, catalog=CATALOG)


def test_the_milestones_command_can_never_work_and_that_is_said() -> None:
    report = judged(f"pip install --pre torch torchvision torchaudio --index-url {INDEX}/nightly/cu124")
    assert report.works is False
    assert report.cause is Cause.WHEEL_NO_ARCH
    said = " ".join(report.reasons)
    assert "no cu124 build of any release can serve compute capability 12.0" in said
    assert "gets no new builds" in said
    assert report.next_step.startswith("Type instead: uv pip install torch==2.15.0 torchvision==")


@pytest.mark.parametrize(
    ("command", "machine", "works", "build", "cause"),
    [
        (f"pip install torch --index-url {INDEX}/cu126", {}, False, "2.14.1+cu126", Cause.WHEEL_NO_ARCH),
        (f"pip install torch --index-url={INDEX}/cu128", {}, True, "2.11.0+cu128", None),
        ("pip install torch", {}, True, "2.15.0+cu132", None),
        ("pip install torch", {"os": "windows", "driver": "581.29"}, False, "2.15.0+cpu", Cause.CPU_ONLY_TORCH),
        ("pip install torch", {"driver": "570.124.06"}, False, "2.15.0+cu132", Cause.DRIVER_TOO_OLD),
        ("pip install torch==2.10.0", {"gpu": "GH200"}, False, "2.10.0+cpu", Cause.CPU_ONLY_TORCH),
        (f"pip install torch -i {INDEX}/cpu", {}, False, None, Cause.CPU_ONLY_TORCH),
        (f"pip install torch -i {INDEX}/rocm6.4", {}, False, None, Cause.WHEEL_NO_ARCH),
        # torch 2.15.0's own hint to owners of Pascal cards, 2.14.1's, 2.11.0's and 2.13.0's on Windows
        (f"pip install torch==2.15.0 -i {INDEX}/cu126", {"gpu": "GTX 1080 Ti"}, False, None, Cause.WHEEL_NO_ARCH),
        (f"pip install torch==2.14.1 -i {INDEX}/cu134", {}, False, None, Cause.WHEEL_NO_ARCH),
        (f"pip install torch==2.11.0 -i {INDEX}/cu128", {"gpu": "V100"}, False, "2.11.0+cu128", Cause.WHEEL_NO_ARCH),
        (
            f"pip install torch==2.13.0 -i {INDEX}/cu129",
            {"os": "windows", "driver": "581.29"},
            False,
            None,
            Cause.WHEEL_NO_ARCH,
        ),
        (f"pip install torch==2.14.1 -i {INDEX}/cu126", {"gpu": "GTX 1080 Ti"}, True, "2.14.1+cu126", None),
        (f"%pip install torch==2.7.1+cu128 -i {INDEX}/cu128", {"gpu": "GTX 1080 Ti"}, False, "2.7.1+cu128", None),
        (
            f"py -3.11 -m pip install torch==2.7.1 -i {INDEX}/cu128",
            {"gpu": "GTX 1080 Ti", "os": "windows", "driver": "581.29"},
            True,
            "2.7.1+cu128",
            None,
        ),
        ("uv pip install torch --torch-backend=auto", {"gpu": "V100"}, False, "2.15.0+cu132", Cause.WHEEL_NO_ARCH),
        ("uv pip install torch --torch-backend=cu126", {"gpu": "V100"}, True, "2.14.1+cu126", None),
        (f"pip install torch --extra-index-url {INDEX}/cu126", {"gpu": "V100"}, False, "2.15.0+cu132", None),
        (f"uv pip install torch --extra-index-url {INDEX}/cu126", {"gpu": "V100"}, True, "2.14.1+cu126", None),
        ("conda install pytorch pytorch-cuda=12.4 -c pytorch -c nvidia", {}, False, "2.5.1+cu124", None),
        ("conda install pytorch -c conda-forge", {}, None, None, None),
        ("pip install torch==99", {}, False, None, Cause.WHEEL_NO_ARCH),
        ("pip install torch -i https://mirror.example/simple", {}, None, None, None),
        (f"pip install torch==2.8.0 -i {INDEX}/cu128", {"python": "3.14"}, False, None, Cause.PYTHON_ENV),
        (f"pip install --pre torch -i {INDEX}/nightly/cu128", {}, None, None, None),
        (f"pip uninstall -y torch && pip install torch -i {INDEX}/cu128", {}, True, "2.11.0+cu128", None),
        (f"RUN pip install numpy; pip install torch -i {INDEX}/cu128", {}, True, "2.11.0+cu128", None),
        ("pip install 'torch>=2.9; python_version > \"3.9\"'", {}, True, "2.15.0+cu132", None),
        ("pip install 'torch[opt]<2.10'", {}, True, "2.9.1+cu128", None),
        ("poetry add torch", {"os": "windows", "driver": "581.29"}, False, "2.15.0+cpu", Cause.CPU_ONLY_TORCH),
        ("pixi add pytorch", {}, None, None, None),
        (r"C:\env\Scripts\pip.exe install torch", {"os": "windows", "driver": "581.29"}, False, "2.15.0+cpu", None),
        (f"pip install \\\n  torch \\\n  -i {INDEX}/cu128", {}, True, "2.11.0+cu128", None),
        (f"pip install {INDEX}/cu128/torch-2.7.0%2Bcu128-cp311-cp311-linux_x86_64.whl", {}, True, "2.7.0+cu128", None),
    ],
)
def test_a_command_is_judged(
    *, command: str, machine: dict[str, str], works: bool | None, build: str | None, cause: Cause | None
) -> None:
    report = judged(command, **machine)
    assert report.works is works
    assert report.build == build
    assert report.reasons
    assert report.next_step
    if cause is not None:
        assert report.cause is cause
    if works is False:
        assert report.cause is not None
        assert report.next_step.startswith("Type instead: uv pip install torch==")


@pytest.mark.parametrize(
    "command", ["", "rm -rf /", "pip install numpy", 'pip install "torch', "pip list", "pip install -e ."]
)
def test_what_is_no_torch_install_is_refused(command: str) -> None:
    with pytest.raises(UsageError):
        judged(command)


def test_an_older_build_that_works_is_told_so_with_the_newer_one() -> None:
    assert "newer for this machine" in judged(f"pip install torch -i {INDEX}/cu128").next_step


@given(
    words=st.lists(
        st.sampled_from(["pip", "uv", "install", "torch", "-i", "--pre", "==", f"{INDEX}/cu126", "-r", "+", "'"])
    )
)
@settings(max_examples=200, deadline=None)
def test_any_words_are_judged_or_refused(words: list[str]) -> None:
    try:
        judged(" ".join(words))
    except UsageError as refused:
        assert refused.next_step
