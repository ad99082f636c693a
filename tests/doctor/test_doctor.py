"""Healthy machines raise no alarm, and each way of being broken is named once, with its cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ongpu.catalog import load
from ongpu.doctor import DoctorReport, Finding, InstalledCode, Weight, doctor
from ongpu.doctor.join import with_smoke
from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, RuntimeVersion
from ongpu.domain.coverage import BinaryCoverage, ContainerGroup, PackageCoverage, ScanReport, TargetCount
from ongpu.domain.environment import Environment, InstalledTorch, Package
from ongpu.domain.machine import Device, Driver, Machine, Modules, PythonInstall, Unavailable
from ongpu.domain.verdict import Cause, Outcome
from ongpu.smoke import SmokeCheck

# What the libraries of real wheels carry (read in November 2026).
CU130 = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
CU126 = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
LINALG_CU130 = "sm_80 sm_86 sm_90 sm_100 sm_120"

GPUS = {
    "RTX 5090": ("NVIDIA GeForce RTX 5090", "12.0"),
    "RTX 4090": ("NVIDIA GeForce RTX 4090", "8.9"),
    "RTX 3060": ("NVIDIA GeForce RTX 3060", "8.6"),
    "GTX 1080 Ti": ("NVIDIA GeForce GTX 1080 Ti", "6.1"),
    "GB10": ("NVIDIA GB10", "12.1"),
    "T4": ("Tesla T4", "7.5"),
    "B300": ("NVIDIA B300 SXM6 AC", "10.3"),
    "H100": ("NVIDIA H100 80GB HBM3", "9.0"),
}


def machine(*gpus: str, driver: str | None = "580.95.05", **more: Any) -> Machine:
    devices = tuple(
        Device(
            name=GPUS[gpu][0],
            uuid=f"GPU-0000000{index}-0000-0000-0000-000000000000",
            compute_capability=ComputeCapability.parse(GPUS[gpu][1]),
            memory_bytes=16 << 30,
            pci_bus_id=f"0000:0{index}:00.0",
        )
        for index, gpu in enumerate(gpus)
    )
    modules = Modules.PROPRIETARY if "GTX 1080 Ti" in gpus else Modules.OPEN
    fields: dict[str, Any] = {
        "os": "linux",
        "arch": "x86_64",
        "glibc": "2.39",
        "devices": devices,
        "driver": Driver(kernel_mode=driver, modules=modules, loaded=True),
        "nvidia_hardware": True,
        "device_files": True,
    }
    return Machine(**{**fields, **more})


def environment(version: str | None, *packages: Package, **more: Any) -> Environment:
    torch = None
    if version is not None:
        tag = version.partition("+")[2]
        digits = tag.removeprefix("cu")
        runtime = RuntimeVersion(major=int(digits[:-1]), minor=int(digits[-1])) if tag.startswith("cu") else None
        torch = InstalledTorch(
            version=version, cuda_tag=tag, runtime=runtime, cpu_only=tag == "cpu", path="/env/site/torch"
        )
        packages = (*packages, Package(name="torch", version=version, location="/env/site"))
    fields: dict[str, Any] = {
        "python": PythonInstall(path="/env/bin/python", version="3.12.3"),
        "prefix": "/env",
        "site_packages": ("/env/site",),
        "packages": packages,
        "torch": torch,
    }
    return Environment(**{**fields, **more})


def library(path: str, targets: str, count: int = 400) -> BinaryCoverage:
    every = tuple(sorted(CodeTarget.parse(word) for word in targets.split()))
    rows = tuple(TargetCount(target=one, count=count, isa=None) for one in every)
    return BinaryCoverage(
        path=path,
        format="elf",
        sass=tuple(row for row in rows if row.target.kind is CodeKind.SASS),
        ptx=tuple(replace(row, isa="8.8") for row in rows if row.target.kind is CodeKind.PTX),
        ptx_isa="8.8" if "compute" in targets else None,
        groups=(ContainerGroup(targets=every, count=count),),
    )


def torch_code(targets: str, *, linalg: str | None = None) -> InstalledCode:
    main = library("/env/site/torch/lib/libtorch_cuda.so", targets)
    rest = (library("/env/site/torch/lib/libtorch_cuda_linalg.so", linalg, 65),) if linalg else ()
    return InstalledCode(torch=(main, *rest), packages=None, torch_folders=("/env/site/torch",))


def extension(name: str, targets: str, *, extends: bool = True) -> tuple[Package, PackageCoverage]:
    requires = ("torch>=2.1",) if extends else ("numpy",)
    package = Package(name=name, version="1.0", location="/env/site", requires=requires)
    return package, PackageCoverage(name=name, version="1.0", binaries=(library(f"/env/site/{name}/_C.so", targets),))


def ask(of: Machine, holds: Environment, code: InstalledCode) -> DoctorReport:
    return doctor(of, holds, code, catalog=load())


def heaviest(report: DoctorReport) -> Finding:
    return report.findings[0]


CODE_130 = torch_code(CU130, linalg=LINALG_CU130)


@pytest.mark.parametrize(
    ("of", "version", "targets"),
    [
        (machine("RTX 4090"), "2.14.1+cu130", CU130),
        (machine("RTX 4090", driver="570.124.06"), "2.14.1+cu126", CU126),
        (machine("GB10", arch="aarch64"), "2.14.1+cu130", "sm_80 sm_90 sm_100 sm_110 sm_120"),
        (machine("RTX 5090"), "2.15.0+cu132", CU130),
        (machine("RTX 4090", driver="535.183.01"), "2.14.1+cu126", CU126),
        (machine("RTX 3060", driver="610.43.02"), "2.14.1+cu126", CU126),
        (machine("GTX 1080 Ti"), "2.14.1+cu126", CU126),
        (machine("B300"), "2.14.1+cu130", CU130),
        (machine("RTX 5090", wsl=True, nvidia_hardware=None, device_files=True), "2.14.1+cu130", CU130),
        (machine("H100", container="docker"), "2.14.1+cu130", CU130),
        (machine("RTX 5090", os="windows", glibc=None, device_files=None), "2.11.0+cu128", CU130),
        (machine("RTX 4090", variables=(("CUDA_VISIBLE_DEVICES", "0"),)), "2.14.1+cu130", CU130),
        (machine("RTX 4090", variables=(("LD_LIBRARY_PATH", "/usr/local/cuda-13.2/lib64"),)), "2.14.1+cu126", CU126),
    ],
    ids=[
        "4090 runs sm_86 code", "4090 on a 570 driver with cu126", "GB10 runs sm_120 code", "cu132 on driver 580",
        "cu126 on driver 535 by minor-version compatibility", "a driver of branch 610", "1080 Ti runs sm_60 code",
        "B300 runs sm_100 code", "WSL", "container with its GPU", "Windows", "one GPU named", "another toolkit around",
    ],
)  # fmt: skip
def test_doctor_raises_no_alarm_on_healthy_machines(of: Machine, version: str, targets: str) -> None:
    linalg = LINALG_CU130 if targets == CU130 else None
    report = ask(of, environment(version), torch_code(targets, linalg=linalg))
    alarms = [one for one in report.findings if one.weight is not Weight.NOTES]
    assert not alarms
    assert (report.outcome, report.cause) == (Outcome.PROVEN, Cause.HEALTHY)
    assert "ongpu verify" in report.next_step


def test_doctor_5090_on_a_build_without_blackwell_code() -> None:
    report = ask(machine("RTX 5090"), environment("2.14.1+cu126"), torch_code(CU126))
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.WHEEL_NO_ARCH)
    assert "libtorch_cuda.so" in heaviest(report).reason
    assert "sm_90" in heaviest(report).reason
    assert "ongpu install" in report.next_step


def test_doctor_1080_ti_on_a_build_without_pascal_code() -> None:
    report = ask(machine("GTX 1080 Ti"), environment("2.15.0+cu132"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.WHEEL_NO_ARCH)
    assert "cu126" in report.next_step


def test_doctor_cpu_only_torch_beside_a_gpu() -> None:
    nothing = InstalledCode(torch=(), packages=None)
    report = ask(machine("RTX 5090"), environment("2.14.1+cpu"), nothing)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.CPU_ONLY_TORCH)
    assert len([one for one in report.findings if one.weight is Weight.BLOCKS]) == 1


def test_doctor_no_torch() -> None:
    report = ask(machine("RTX 5090"), environment(None), InstalledCode(torch=(), packages=None))
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.PYTHON_ENV)


def test_doctor_driver_too_old_for_the_runtime() -> None:
    report = ask(machine("RTX 4090", driver="550.144.03"), environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.DRIVER_TOO_OLD)
    assert "580" in heaviest(report).reason
    assert "550.144.03" in heaviest(report).reason


def test_doctor_does_not_send_an_old_gpu_to_a_driver_that_dropped_it() -> None:
    report = ask(machine("GTX 1080 Ti", driver="550.144.03"), environment("2.15.0+cu132"), CODE_130)
    assert report.cause is Cause.WHEEL_NO_ARCH
    assert not any("Update the NVIDIA driver" in (one.next_step or "") for one in report.findings)


def test_doctor_driver_that_does_not_serve_the_gpu() -> None:
    dropped = ask(machine("GTX 1080 Ti", driver="595.45.04"), environment("2.14.1+cu126"), torch_code(CU126))
    assert (dropped.outcome, dropped.cause) == (Outcome.REFUTED, Cause.DRIVER_TOO_NEW)
    early = ask(machine("RTX 5090", driver="560.35.03"), environment("2.11.0+cu128"), torch_code(CU130))
    assert (early.outcome, early.cause) == (Outcome.REFUTED, Cause.DRIVER_TOO_OLD)


def test_doctor_driver_that_cannot_be_read_is_unknown() -> None:
    report = ask(machine("RTX 4090", driver=None), environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.UNKNOWN, Cause.UNDETERMINED)


@pytest.mark.parametrize("value", ["", "-1", "7", "GPU-ffffffff", "MIG-1234"])
def test_doctor_a_variable_that_hides_every_gpu(value: str) -> None:
    of = machine("RTX 4090", variables=(("CUDA_VISIBLE_DEVICES", value),))
    report = ask(of, environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.NO_GPU_VISIBLE)
    assert "CUDA_VISIBLE_DEVICES" in report.next_step


def test_doctor_container_without_its_gpu() -> None:
    of = machine(
        driver=None,
        container="docker",
        nvidia_hardware=None,
        device_files=False,
        unavailable=(Unavailable(what="nvml", reason="libnvidia-ml.so.1 is not there", code="not-found"),),
    )
    report = ask(of, environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.NO_GPU_VISIBLE)
    assert "--gpus" in report.next_step
    assert len(report.findings) == 1
    assert "sm_120" in {str(one) for one in report.targets}


def test_doctor_library_and_module_of_different_drivers() -> None:
    mismatch = Unavailable(
        what="nvml", reason="Driver/library version mismatch", code="NVML_ERROR_LIB_RM_VERSION_MISMATCH"
    )
    of = machine(driver="580.95.05", unavailable=(mismatch,))
    report = ask(of, environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.DRIVER_BROKEN)
    assert "Reboot" in report.next_step


def test_doctor_t4_on_cu130_warns_of_linalg_and_stays_healthy() -> None:
    report = ask(machine("T4"), environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.PROVEN, Cause.HEALTHY)
    assert heaviest(report).weight is Weight.WARNS
    assert "libtorch_cuda_linalg.so" in heaviest(report).reason


def test_doctor_extension_without_code_blocks_where_it_extends_torch() -> None:
    package, coverage = extension("flash-attn", "sm_80 sm_90")
    code = replace(CODE_130, packages=ScanReport(target="/env", packages=(coverage,)))
    report = ask(machine("RTX 5090"), environment("2.14.1+cu130", package), code)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.EXTENSION_NO_ARCH)
    assert "flash-attn" in heaviest(report).title
    on_h100 = ask(machine("H100"), environment("2.14.1+cu130", package), code)
    assert on_h100.outcome is Outcome.PROVEN


def test_doctor_extension_that_serves_one_gpu_of_two_warns() -> None:
    package, coverage = extension("torchvision", "sm_75 sm_80 sm_86 sm_90")
    code = replace(torch_code("sm_60 sm_75 sm_80 sm_86"), packages=ScanReport(target="/env", packages=(coverage,)))
    report = ask(machine("RTX 4090", "GTX 1080 Ti"), environment("2.14.1+cu126", package), code)
    assert report.outcome is Outcome.PROVEN
    assert heaviest(report).weight is Weight.WARNS


def test_doctor_other_package_without_code_warns() -> None:
    package, coverage = extension("xgboost", "sm_80 sm_90", extends=False)
    code = replace(CODE_130, packages=ScanReport(target="/env", packages=(coverage,)))
    report = ask(machine("RTX 5090"), environment("2.14.1+cu130", package), code)
    assert report.outcome is Outcome.PROVEN
    assert heaviest(report).cause is Cause.EXTENSION_NO_ARCH
    assert heaviest(report).weight is Weight.WARNS


def test_doctor_torch_comes_before_its_extensions() -> None:
    package, coverage = extension("torchvision", CU126)
    code = replace(torch_code(CU126), packages=ScanReport(target="/env", packages=(coverage,)))
    report = ask(machine("RTX 5090"), environment("2.14.1+cu126", package), code)
    assert report.cause is Cause.WHEEL_NO_ARCH


def test_doctor_one_gpu_of_two_without_code_warns_and_names_it() -> None:
    of = machine("RTX 4090", "GTX 1080 Ti", driver="580.95.05")
    report = ask(of, environment("2.14.1+cu130"), CODE_130)
    assert report.outcome is Outcome.PROVEN
    warned = next(one for one in report.findings if one.weight is Weight.WARNS)
    assert "1080 Ti" in warned.title
    assert "CUDA_VISIBLE_DEVICES" in (warned.next_step or "")


def test_doctor_judges_only_the_gpu_that_is_seen() -> None:
    variables = (("CUDA_VISIBLE_DEVICES", "0"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"))
    of = machine("RTX 4090", "GTX 1080 Ti", variables=variables)
    report = ask(of, environment("2.14.1+cu130"), CODE_130)
    assert [one.name for one in report.devices] == ["NVIDIA GeForce RTX 4090"]
    assert not [one for one in report.findings if one.weight is not Weight.NOTES]


def test_doctor_ptx_variables() -> None:
    forced = machine("RTX 5090", variables=(("CUDA_FORCE_PTX_JIT", "1"),))
    report = ask(forced, environment("2.14.1+cu130"), CODE_130)
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.WHEEL_NO_ARCH)
    off = machine("RTX 5090", variables=(("CUDA_FORCE_PTX_JIT", "0"),))
    assert ask(off, environment("2.14.1+cu130"), CODE_130).outcome is Outcome.PROVEN
    only_ptx = torch_code("sm_80 compute_90")
    forbidden = machine("RTX 5090", variables=(("CUDA_DISABLE_PTX_JIT", "1"),))
    assert ask(forbidden, environment("2.10.0+cu129"), only_ptx).cause is Cause.WHEEL_NO_ARCH


def test_doctor_mixed_and_missing_cuda_libraries() -> None:
    listed = Package(
        name="torch",
        version="2.14.1+cu130",
        location="/env/site",
        requires=(
            "nvidia-cudnn-cu13==9.24.0.43; platform_system == 'Linux'",
            "nvidia-nccl-cu13==2.30.7; platform_system == 'Linux'",
            "numpy; extra == 'opt'",
        ),
    )
    stranger = Package(name="nvidia-cudnn-cu12", version="9.10.2.21", location="/env/site")
    changed = Package(name="nvidia-nccl-cu13", version="2.28.3", location="/env/site")
    holds = replace(environment("2.14.1+cu130"), packages=(listed, stranger, changed))
    report = ask(machine("RTX 5090"), holds, CODE_130)
    titles = {one.title: one for one in report.findings}
    assert "nvidia-cudnn-cu13" in titles["CUDA libraries that torch needs are not installed"].reason
    assert "2.28.3" in titles["CUDA libraries are not in the version torch was built with"].reason
    assert "nvidia-cudnn-cu12" in titles["libraries of another CUDA version are installed"].reason
    by_conda = replace(holds, packages=tuple(replace(one, installer="conda") for one in holds.packages))
    assert not [one for one in ask(machine("RTX 5090"), by_conda, CODE_130).findings if one.weight is Weight.WARNS]
    on_windows = machine("RTX 5090", os="windows", glibc=None, device_files=None)
    assert not [one for one in ask(on_windows, holds, CODE_130).findings if one.weight is Weight.WARNS]


@pytest.mark.parametrize("version", ["unknown", "2.7.18", "3.11.7", "3.14.0rc2"])
def test_doctor_answers_whatever_the_python(version: str) -> None:
    python = PythonInstall(path="/env/bin/python", version=version)
    report = ask(machine("RTX 5090"), environment("2.14.1+cu130", python=python), CODE_130)
    assert report.outcome is Outcome.PROVEN


def test_doctor_two_torches() -> None:
    code = replace(CODE_130, torch_folders=("/env/site/torch", "/usr/lib/site/torch"))
    report = ask(machine("RTX 5090"), environment("2.14.1+cu130"), code)
    assert any("two torches" in one.title for one in report.findings)


def test_doctor_broken_torch_library_is_never_healthy() -> None:
    broken = BinaryCoverage(path="/t/lib/libtorch_cuda.so", format="elf", problems=("the section table is cut off",))
    report = ask(machine("RTX 5090"), environment("2.14.1+cu130"), InstalledCode(torch=(broken,), packages=None))
    assert report.outcome is not Outcome.PROVEN
    gone = ask(machine("RTX 5090"), environment("2.14.1+cu130"), InstalledCode(torch=(), packages=None))
    assert gone.outcome is Outcome.REFUTED


def test_doctor_findings_are_in_order_of_weight() -> None:
    package, coverage = extension("xgboost", "sm_80", extends=False)
    code = replace(torch_code(CU126), packages=ScanReport(target="/env", packages=(coverage,)))
    of = machine("RTX 5090", variables=(("CUDA_LAUNCH_BLOCKING", "1"), ("LD_PRELOAD", "/x.so")))
    report = ask(of, environment("2.14.1+cu126", package), code)
    weights = [list(Weight).index(one.weight) for one in report.findings]
    assert weights == sorted(weights)
    assert len(set(weights)) == 3


def test_doctor_deep_adds_what_was_seen_on_the_gpu() -> None:
    healthy = ask(machine("RTX 5090"), environment("2.14.1+cu130"), CODE_130)
    good = SmokeCheck(name="matmul-float32", outcome=Outcome.PROVEN, reason="right")
    assert with_smoke(healthy, [good]).outcome is Outcome.PROVEN
    bad = SmokeCheck(name="torch_cuda_check", outcome=Outcome.REFUTED, reason="no kernel", cause=Cause.WHEEL_NO_ARCH)
    refuted = with_smoke(healthy, [good, bad])
    assert (refuted.outcome, refuted.cause) == (Outcome.REFUTED, Cause.WHEEL_NO_ARCH)
    assert "ongpu verify" in refuted.next_step
    unknown = with_smoke(healthy, [good, SmokeCheck(name="process-memory", outcome=Outcome.UNKNOWN, reason="hidden")])
    assert unknown.outcome is Outcome.UNKNOWN
    optional = replace(bad, required=False)
    assert with_smoke(healthy, [good, optional]).outcome is Outcome.PROVEN
