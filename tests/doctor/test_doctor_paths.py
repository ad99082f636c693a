"""What PYTHONPATH, .pth files and LD_LIBRARY_PATH put in the place of what is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ongpu.doctor.path_rules import path_findings
from ongpu.doctor.read import as_started, read_code
from ongpu.doctor.report import Finding, InstalledCode, Weight
from ongpu.domain.environment import Ahead, Environment, InstalledTorch, Package
from ongpu.domain.machine import PythonInstall
from ongpu.domain.verdict import Cause
from ongpu.scan import Displaced, displaced_libraries

NOTHING = InstalledCode(torch=(), packages=None)


def torch(version: str, path: str) -> InstalledTorch:
    return InstalledTorch(version=version, cuda_tag=None, runtime=None, cpu_only=False, path=path)


def holds(**more: Any) -> Environment:
    plain = Environment(
        python=PythonInstall(path="/env/bin/python", version="3.12.3"),
        prefix="/env",
        site_packages=("/env/site",),
        packages=tuple(Package(name=name, version="2.0", location="/env/site") for name in ("numpy", "torch")),
        torch=torch("2.0", "/env/site/torch"),
    )
    return replace(plain, **more)


def found(environment: Environment, code: InstalledCode = NOTHING) -> list[Finding]:
    return list(path_findings(as_started(environment), code))


def test_nothing_in_front_is_no_finding() -> None:
    assert found(holds()) == []
    assert found(holds(added=("/home/me/project",))) == []
    same = Package(name="numpy", version="2.0", location="/front")
    assert found(holds(ahead=Ahead(folders=("/front",), packages=(same,), hides=(("numpy", "2.0"),)))) == []


def test_the_torch_of_pythonpath_is_the_one_that_is_judged() -> None:
    other = Package(name="torch", version="1.0", location="/front")
    ahead = Ahead(folders=("/front",), packages=(other,), torch=torch("1.0", "/front/torch"), hides=(("torch", "2.0"),))
    seen = as_started(holds(ahead=ahead))
    assert seen.torch == ahead.torch
    assert seen.package("torch") == other
    (finding,) = found(holds(ahead=ahead))
    assert (finding.weight, finding.cause) == (Weight.WARNS, Cause.PYTHON_ENV)
    assert "/front/torch" in finding.reason
    (alone,) = found(holds(ahead=replace(ahead, hides=()), torch=None, packages=()))
    assert alone.weight is Weight.NOTES


def test_a_package_hidden_by_another_version_is_a_note() -> None:
    older = Package(name="numpy", version="1.26", location="/front")
    (finding,) = found(holds(ahead=Ahead(folders=("/front",), packages=(older,), hides=(("numpy", "2.0"),))))
    assert finding.weight is Weight.NOTES
    assert "numpy 1.26 (installed: 2.0)" in finding.reason


def test_a_torch_that_a_pth_file_names_is_a_note() -> None:
    (finding,) = found(holds(added=("/src",), torch=torch("2.0", "/src/torch")))
    assert finding.weight is Weight.NOTES


@pytest.mark.parametrize(
    ("lacking", "weight"), [((), Weight.NOTES), (None, Weight.WARNS), (("__nvJitLinkCreate_13_2",), Weight.BLOCKS)]
)
def test_a_displaced_library_weighs_what_it_lacks(lacking: tuple[str, ...] | None, weight: Weight) -> None:
    one = Displaced("libnvJitLink.so.13", ("/env/libcusolver.so.12",), "/cuda/libnvJitLink.so.13", "/env/x", lacking)
    (finding,) = found(holds(), replace(NOTHING, displaced=(one,)))
    assert finding.weight is weight
    assert (finding.cause is Cause.CUDA_VERSION_MISMATCH) == bool(lacking)
    assert finding.lines


def build(target: Path, source: str, *flags: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to build libraries with, or no ELF")
    target.parent.mkdir(parents=True, exist_ok=True)
    argv = [
        compiler,
        "-shared",
        "-fPIC",
        "-x",
        "c",
        "-",
        "-x",
        "none",
        "-o",
        str(target),
        f"-Wl,-soname,{target.name}",
        *flags,
    ]
    subprocess.run(argv, input=source.encode(), check=True)


@pytest.fixture
def torch_folder(tmp_path: Path) -> Path:
    """As in a wheel: torch by DT_RPATH, NVIDIA's libraries by DT_RUNPATH."""
    folder = tmp_path / "site" / "torch"
    nvidia = tmp_path / "site" / "nvidia" / "cu13" / "lib"
    link, solver = nvidia / "libnvJitLink.so.13", nvidia / "libcusolver.so.12"
    build(link, "int old(void) { return 1; } int created(void) { return 2; }")
    by_runpath = ("-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN")
    build(solver, "int created(void); int solve(void) { return created(); }", str(link), *by_runpath)
    by_rpath = ("-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN/../../nvidia/cu13/lib")
    source = "int solve(void); int go(void) { return solve(); }"
    build(folder / "lib" / "libtorch_cuda.so", source, str(solver), *by_rpath, f"-Wl,-rpath-link,{nvidia}")
    return folder


@pytest.mark.process
def test_what_ld_library_path_displaces_is_what_the_loader_takes(torch_folder: Path, tmp_path: Path) -> None:
    toolkit = tmp_path / "toolkit" / "lib64"
    load = f"import ctypes; ctypes.CDLL({str(torch_folder / 'lib/libtorch_cuda.so')!r}, mode=2).go()"

    def loads() -> str:
        argv = [sys.executable, "-I", "-S", "-c", load]
        done = subprocess.run(argv, env={"LD_LIBRARY_PATH": str(toolkit)}, capture_output=True, text=True, check=False)
        return done.stderr

    toolkit.mkdir(parents=True)
    shutil.copy(torch_folder.parent / "nvidia/cu13/lib/libcusolver.so.12", toolkit)  # found by DT_RPATH all the same
    assert displaced_libraries(torch_folder, str(toolkit)) == ()
    assert loads() == ""
    build(toolkit / "libnvJitLink.so.13", "int old(void) { return 1; } int created(void) { return 3; }")
    (other,) = displaced_libraries(torch_folder, f"/nowhere:{toolkit}:")
    assert (other.name, other.taken, other.lacking) == (
        "libnvJitLink.so.13", str(toolkit / "libnvJitLink.so.13"), ()
    )  # fmt: skip
    assert loads() == ""
    build(toolkit / "libnvJitLink.so.13", "int old(void) { return 1; }")
    (older,) = displaced_libraries(torch_folder, str(toolkit))
    assert older.lacking == ("created",)
    assert "undefined symbol: created" in loads()


@pytest.mark.process
def test_a_toolkit_of_another_version_displaces_nothing(torch_folder: Path, tmp_path: Path) -> None:
    toolkit = tmp_path / "toolkit"
    build(toolkit / "libnvJitLink.so.12", "int created(void) { return 3; }")
    assert displaced_libraries(torch_folder, str(toolkit)) == ()
    (toolkit / "libnvJitLink.so.13").write_bytes(b"no library")
    (unread,) = displaced_libraries(torch_folder, str(toolkit))
    assert unread.lacking is None


def test_code_on_the_path_is_read(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "scan" / "data" / "library.so"
    for name in ("added", "front"):
        info = tmp_path / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text("_C.so,,\n")
        (tmp_path / name / "_C.so").write_bytes(data.read_bytes())
    one = Package(name="front", version="1.0", location=str(tmp_path / "front"))
    other = Package(name="added", version="1.0", location=str(tmp_path / "added"))
    environment = holds(
        added=(str(tmp_path / "added"),),
        packages=(other,),
        ahead=Ahead(folders=(str(tmp_path / "front"),), packages=(one,)),
        torch=None,
    )
    code = read_code(as_started(environment))
    assert code.packages is not None
    assert [package.name for package in code.packages.packages if package.binaries] == ["added", "front"]
