"""The machines that the planner is asked about, and the pages' own scenarios with the picks of other tools."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.plan.plan_rules import Scenario

K80, GTX980, GTX1080TI = ("Tesla K80", "3.7"), ("GeForce GTX 980", "5.2"), ("GeForce GTX 1080 Ti", "6.1")
P100, V100, T4 = ("Tesla P100", "6.0"), ("NVIDIA V100", "7.0"), ("Tesla T4", "7.5")
A100, RTX3090, RTX4090 = ("NVIDIA A100", "8.0"), ("GeForce RTX 3090", "8.6"), ("GeForce RTX 4090", "8.9")
H100, B200, B300 = ("NVIDIA H100", "9.0"), ("NVIDIA B200", "10.0"), ("NVIDIA B300", "10.3")
RTX5090, GB10, THOR = ("GeForce RTX 5090", "12.0"), ("NVIDIA GB10", "12.1"), ("NVIDIA Thor", "11.0")
GH200, GB200 = ("NVIDIA GH200", "9.0"), ("NVIDIA GB200", "10.0")

SINGLE = (K80, GTX980, GTX1080TI, P100, V100, T4, A100, RTX3090, RTX4090, H100, B200, B300, RTX5090)
MIXED = ((V100, H100), (T4, RTX5090), (GTX1080TI, RTX5090), (V100, RTX5090), (RTX3090, RTX4090), (K80, A100))
LINUX_DRIVERS = ("418.40", "470.256.02", "525.60.13", "535.183.01", "560.35.05", "570.124.06", "580.95.05", "610.43.02")
WINDOWS_DRIVERS = ("472.12", "528.33", "551.86", "572.16", "581.29", "610.62")
ARM_DRIVERS = ("535.183.01", "570.124.06", "580.95.05", "615.20.01")


def scenarios() -> tuple[Scenario, ...]:
    """The whole grid."""
    groups = [(one,) for one in SINGLE] + list(MIXED)
    linux = [
        Scenario(gpus=gpus, driver=driver, python=python)
        for gpus, driver, python in itertools.product(groups, LINUX_DRIVERS, ("3.12",))
    ]
    pythons = [
        Scenario(gpus=(gpu,), driver="580.95.05", python=python)
        for gpu, python in itertools.product(
            (GTX1080TI, V100, A100, RTX5090, K80),
            ("3.8", "3.9", "3.10", "3.11", "3.13", "3.13t", "3.14", "3.14t", "3.15"),
        )
        if gpu is not K80
    ]
    windows = [
        Scenario(gpus=gpus, driver=driver, os="windows") for gpus, driver in itertools.product(groups, WINDOWS_DRIVERS)
    ]
    arm = [
        Scenario(gpus=(gpu,), driver=driver, arch="aarch64")
        for gpu, driver in itertools.product((A100, GH200, GB200, GB10), ARM_DRIVERS)
    ]
    specs = [
        Scenario(gpus=(gpu,), driver=driver, spec=spec)
        for gpu, driver, spec in itertools.product(
            (GTX1080TI, V100, RTX3090, RTX5090),
            ("470.256.02", "570.124.06", "580.95.05"),
            ("torch==2.6.0", "torch==2.9.1", "torch<2.9", "torch>=2.11", "torch>=2.8,<2.11"),
        )
    ]
    windows_specs = [
        Scenario(gpus=(gpu,), driver="581.29", os="windows", spec=spec)
        for gpu, spec in itertools.product((GTX1080TI, V100, RTX4090), ("torch==2.9.1", "torch==2.8.0", "torch<2.7"))
    ]
    glibcs = [
        Scenario(gpus=(gpu,), driver="580.95.05", glibc=glibc)
        for gpu, glibc in itertools.product((V100, RTX4090, RTX5090), ("2.17", "2.27", "2.28", "2.39"))
    ]
    return (*linux, *pythons, *windows, *arm, *specs, *windows_specs, *glibcs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A scenario that somebody wrote down, with the right answer and what other tools pick.

    ``answer`` is a build, or a cause; ``peers`` are the picks as they were run or read on 2026-11-22, a pick that
    does not work marked with a cross.
    """

    number: str
    words: str
    gpus: tuple[str, ...]
    answer: str
    driver: str | None = None
    os: str = "linux"
    arch: str | None = None
    python: str = "3.11"
    glibc: str | None = "2.35"
    spec: str | None = None
    peers: str = ""


TOLD: tuple[Told, ...] = (
    Told(number="P1", words="GTX 1080 Ti, driver 580", gpus=("GTX 1080 Ti",), driver="580.95.05", answer="2.14.1+cu126",
         peers="uv 2.15.0+cu132 ✗, ltt 2.9.1+cu130 ✗, env-doctor 2.9.1+cu130 ✗, rigsolve 2.13.0+cu126"),
    Told(number="P2", words="V100, driver 580", gpus=("V100",), driver="580.95.05", answer="2.14.1+cu126",
         peers="uv 2.15.0+cu132 ✗, ltt 2.9.1+cu130 ✗, rigsolve fits"),
    Told(number="P3", words="V100, driver 570", gpus=("V100",), driver="570.124.06", answer="2.14.1+cu126",
         peers="uv 2.13.0+cu129 ✗, ltt 2.9.1+cu129, env-doctor 2.9.1+cu128, rigsolve fits"),
    Told(number="P4", words="P100, driver 535", gpus=("Tesla P100",), driver="535.183.01", answer="2.14.1+cu126",
         peers="uv 2.13.0+cu129 ✗, ltt 2.9.1+cu129 ✗, rigsolve fits"),
    Told(number="P5", words="GTX 1080 Ti, driver 550", gpus=("GTX 1080 Ti",), driver="550.144.03",
         answer="2.14.1+cu126", peers="uv 2.13.0+cu129 ✗, ltt 2.9.1+cu129 ✗"),
    Told(number="P6", words="GTX 1080 Ti, torch==2.9.1", gpus=("GTX 1080 Ti",), driver="580.95.05", spec="torch==2.9.1",
         answer="2.9.1+cu126", peers="uv 2.9.1+cu130 ✗, ltt 2.9.1+cu130 ✗"),
    Told(number="P7", words="GTX 1080 Ti, torch<2.9", gpus=("GTX 1080 Ti",), driver="580.95.05", spec="torch<2.9",
         answer="2.8.0+cu126", peers="uv 2.8.0+cu129 ✗"),
    Told(number="P8", words="RTX 5090, driver 580", gpus=("RTX 5090",), driver="580.95.05", answer="2.15.0+cu132",
         peers="uv 2.15.0+cu132, ltt 2.9.1+cu130 (stale), gpu-doctor cu121 ✗"),
    Told(number="P9", words="RTX 5090, driver 570", gpus=("RTX 5090",), driver="570.124.06", answer="2.13.0+cu129",
         peers="uv 2.13.0+cu129, ltt 2.9.1+cu129 (stale), gpu-installer 2.11.0+cu130 ✗"),
    Told(number="P10", words="RTX 5090, torch==2.6.0", gpus=("RTX 5090",), driver="580.95.05", spec="torch==2.6.0",
         answer="wheel-no-arch", peers="uv 2.6.0+cu126 ✗"),
    Told(number="P11", words="RTX 5090, driver 560 (older than Blackwell)", gpus=("RTX 5090",), driver="560.35.05",
         answer="driver-too-old", peers="uv 2.13.0+cu129 without a word ✗, ltt 2.9.1+cu129 ✗"),
    Told(number="P12", words="RTX 5090, glibc 2.17", gpus=("RTX 5090",), driver="580.95.05", glibc="2.17",
         answer="python-env", peers="uv 2.5.1+cu124 ✗"),
    Told(number="P13", words="A100, driver 535", gpus=("A100",), driver="535.183.01", answer="2.14.1+cu126",
         peers="uv 2.13.0+cu129 (older), ltt 2.9.1+cu129 (stale), gpu-installer cu130 ✗"),
    Told(number="P14", words="A100, driver 470", gpus=("A100",), driver="470.256.02", answer="2.7.1+cu118",
         peers="uv 2.7.1+cu118, ltt 2.7.1+cu118, gaff refuses ✗, comfy-env 12.8 ✗"),
    Told(number="P15", words="RTX 3090, driver 470, torch>=2.8", gpus=("RTX 3090",), driver="470.256.02",
         spec="torch>=2.8",
         answer="driver-too-old", peers="uv 2.15.0+cpu ✗, ltt 2.9.1+cpu ✗, rigsolve refuses"),
    Told(number="P16", words="RTX 3090, driver 470, Python 3.14", gpus=("RTX 3090",), driver="470.256.02",
         python="3.14",
         answer="python-env", peers="uv 2.15.0+cpu ✗"),
    Told(number="P17", words="GTX 1080, driver 430", gpus=("GTX 1080",), driver="430.50", answer="driver-too-old",
         peers="uv 2.15.0+cpu ✗, ltt 2.9.1+cpu ✗, rigsolve refuses, env-doctor cu117 ✗"),
    Told(number="P21", words="GTX 1080 Ti, Windows, driver 581", gpus=("GTX 1080 Ti",), os="windows", driver="581.29",
         glibc=None, answer="2.14.1+cu126", peers="uv cu132 ✗, gpu-doctor CPU ✗"),
    Told(number="P21b", words="GTX 1080 Ti, Windows, driver 551", gpus=("GTX 1080 Ti",), os="windows", driver="551.86",
         glibc=None, answer="2.14.1+cu126", peers="uv cu129 ✗"),
    Told(number="P22", words="DGX Spark GB10, driver 580", gpus=("GB10",), driver="580.95.05", answer="2.15.0+cu132",
         peers="uv 2.15.0+cu132, rigsolve cu126 ✗"),
    Told(number="P23", words="B300, driver 580", gpus=("B300",), driver="580.95.05", answer="2.15.0+cu132",
         peers="uv cu132, rigsolve cu126 ✗"),
    Told(number="P23b", words="Thor, aarch64, driver 580", gpus=("Thor",), driver="580.95.05", answer="2.15.0+cu132",
         peers="uv cu132, rigsolve cu126 ✗"),
    Told(number="P24", words="RTX 5090 + GTX 1080 Ti, Linux", gpus=("RTX 5090", "GTX 1080 Ti"), driver="580.95.05",
         answer="driver-broken", peers="uv cu132 without a word ✗, ltt cu130 ✗"),
    Told(number="P25", words="RTX 5090 + V100, Linux", gpus=("RTX 5090", "V100"), driver="580.95.05",
         answer="driver-broken", peers="uv cu132 ✗, ltt 2.9.1+cu130 ✗"),
    Told(number="P26", words="K80, driver 470", gpus=("K80",), driver="470.256.02", answer="2.7.1+cu118",
         peers="uv fits, ltt fits, rigsolve 2.6.0+cu118"),
    Told(number="P27", words="RTX 4090, driver 570 (not PyPI's own)", gpus=("RTX 4090",), driver="570.124.06",
         answer="2.14.1+cu126", peers="pip 2.15.0 of PyPI: CUDA 13.2, silent CPU ✗"),
    Told(number="P28", words="GB200, aarch64, torch==2.10.0", gpus=("GB200",), driver="580.95.05", spec="torch==2.10.0",
         answer="2.10.0+cu130", peers="pip 2.10.0 of PyPI: CPU build ✗"),
    Told(number="C2", words="RTX 5090, torch==2.14.1 (cu126 would install and fail)", gpus=("RTX 5090",),
         driver="580.95.05", spec="torch==2.14.1", answer="2.14.1+cu130"),
    Told(number="C3", words="RTX 3060, Windows, driver 581 (PyPI is CPU-only)", gpus=("RTX 3060",), os="windows",
         driver="581.29", glibc=None, answer="2.15.0+cu132", peers="pip 2.15.0 of PyPI: CPU build ✗"),
    Told(number="C5", words="GTX 1080 Ti, Windows, torch==2.7.1", gpus=("GTX 1080 Ti",), os="windows", driver="581.29",
         glibc=None, spec="torch==2.7.1", answer="2.7.1+cu128"),
    Told(number="C5b", words="GTX 1080 Ti, Linux, torch==2.7.1+cu128 (list starts at 7.5)", gpus=("GTX 1080 Ti",),
         driver="580.95.05", spec="torch==2.7.1+cu128", answer="wheel-no-arch"),
    Told(number="C6", words="V100 + RTX 5090, Windows", gpus=("V100", "RTX 5090"), os="windows", driver="581.29",
         glibc=None, answer="2.10.0+cu128"),
    Told(number="C7", words="RTX 4090 (no sm_89 in the list, 8.6 code runs)", gpus=("RTX 4090",), driver="580.95.05",
         answer="2.15.0+cu132", peers="env-doctor calls the stock wheel a mismatch ✗"),
    Told(number="C8", words="GH200, aarch64, driver 570", gpus=("GH200",), driver="570.124.06", answer="2.14.1+cu126"),
    Told(number="C10", words="RTX 5090, Python 3.9", gpus=("RTX 5090",), driver="580.95.05", python="3.9",
         answer="2.8.0+cu128"),
    Told(number="C10b", words="RTX 5090, Python 3.8", gpus=("RTX 5090",), driver="580.95.05", python="3.8",
         answer="python-env"),
    Told(number="C11", words="B300, driver 575 (first was 580)", gpus=("B300",), driver="575.57.08",
         answer="driver-too-old"),
    Told(number="C12", words="RTX 3060, driver 610", gpus=("RTX 3060",), driver="610.43.02", answer="2.15.0+cu132",
         peers="readers of 'CUDA Version:' find nothing in nvidia-smi and pick CPU ✗"),
    Told(number="I1", words="V100 + H100", gpus=("V100", "H100"), driver="580.95.05", answer="2.14.1+cu126"),
    Told(number="I2", words="T4 + RTX 5090", gpus=("T4", "RTX 5090"), driver="580.95.05", answer="2.15.0+cu132"),
    Told(number="I3", words="RTX 5090, Windows, driver 572", gpus=("RTX 5090",), os="windows",
         driver="572.16", glibc=None,
         answer="2.11.0+cu128"),
    Told(number="I4", words="T4, aarch64 (no build has 7.5 there)", gpus=("T4",), arch="aarch64", driver="580.95.05",
         answer="source"),
    Told(number="I5", words="GTX 1080 Ti, driver 590 (dropped it)", gpus=("GTX 1080 Ti",), driver="590.44.01",
         answer="driver-too-new"),
    Told(number="I6", words="Jetson Orin, JetPack 6", gpus=("Jetson AGX Orin",), driver="540.4.0",
         answer="driver-too-old"),
    Told(number="I7", words="GTX 1080 Ti, Windows, torch==2.9.1 (list unknown)", gpus=("GTX 1080 Ti",), os="windows",
         driver="581.29", glibc=None, spec="torch==2.9.1", answer="undetermined"),
    Told(number="I8", words="RTX Spark, Windows on Arm", gpus=("RTX Spark",), os="windows", arch="aarch64", glibc=None,
         answer="python-env"),
)  # fmt: skip
