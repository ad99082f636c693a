"""Environments, wheels and torch folders made of the small real binaries."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.domain.arch import ComputeCapability, Fit
from ongpu.domain.coverage import CodeVerdict
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.scan import scan_paths, scan_wheel, scan_wheel_report, torch_coverage
from ongpu.scan.files import is_library, may_have_code
from ongpu.scan.packages import UNOWNED, rows_of

DATA = Path(__file__).parent / "data"
A100, RTX5090 = ComputeCapability(8, 0), ComputeCapability(12, 0)


def install(site: Path, name: str, files: dict[str, bytes], *, version: str = "1.0", record: bool = True) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, data in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
    if record:
        (info / "RECORD").write_text(
            "".join(f"{path},sha256={hash(data)},{len(data)}\n" for path, data in files.items())
        )


def read(name: str) -> bytes:
    return (DATA / name).read_bytes()


def test_scan_rolls_up_by_package(tmp_path: Path) -> None:
    install(tmp_path, "flash_attn", {"flash_attn_2.so": read("library.so"), "flash_attn/__init__.py": b""})
    install(tmp_path, "plain", {"plain/_c.so": read("host_only.so")})
    (tmp_path / "loose.so").write_bytes(read("outside.so"))
    report = scan_paths([tmp_path])
    by_name = {package.name: package for package in report.packages}
    assert [str(one.target) for one in by_name["flash_attn"].binaries[0].sass] == ["sm_80", "sm_86"]
    assert (by_name["plain"].binaries, by_name["plain"].host_only) == ((), 1)
    assert by_name[UNOWNED].binaries[0].outside
    assert not report.problems
    assert report.files_read == 3


def test_scan_equal_files_and_links_are_judged_once(tmp_path: Path) -> None:
    data = read("library.so")
    install(tmp_path, "copies", {"lib/x.so": data, "lib/x.so.0": data})
    (tmp_path / "lib" / "x.so.0.6").symlink_to(tmp_path / "lib" / "x.so")
    report = scan_paths([tmp_path])
    assert sum(len(package.binaries) for package in report.packages) == 1


def test_scan_missing_files_and_records_are_named(tmp_path: Path) -> None:
    install(tmp_path, "gone", {"gone.so": b"x"})
    (tmp_path / "gone.so").unlink()
    install(tmp_path, "bare", {"bare.so": read("library.so")}, record=False)
    report = scan_paths([tmp_path])
    assert any("gone.so is in RECORD and not on the disk" in text for text in report.problems)
    assert any("no RECORD" in text for text in report.problems)
    assert {package.name for package in report.packages if package.binaries} == {UNOWNED}


def test_scan_editable_install_is_followed_to_its_source(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "a source"
    source.mkdir()
    (source / "_C.so").write_bytes(read("library.so"))
    (source / "build").mkdir()
    (source / "build" / "old.so").write_bytes(read("library.so") + b"x")
    install(site, "mine", {"__editable__.mine.pth": b""})
    url = {"url": source.as_uri(), "dir_info": {"editable": True}}
    (site / "mine-1.0.dist-info" / "direct_url.json").write_text(json.dumps(url))
    found = [one.path for package in scan_paths([site]).packages for one in package.binaries]
    assert found == [str(source / "_C.so")]


def test_scan_only_named_packages(tmp_path: Path) -> None:
    install(tmp_path, "Flash_Attn", {"a.so": read("library.so")})
    install(tmp_path, "other", {"b.so": read("library.so")})
    report = scan_paths([tmp_path], names=frozenset({"flash-attn"}))
    assert [package.name for package in report.packages] == ["Flash_Attn"]


def test_scan_conda_prefix(tmp_path: Path) -> None:
    meta = tmp_path / "conda-meta"
    meta.mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libx.so").write_bytes(read("library.so"))
    row = {"name": "libx", "version": "2.0", "files": ["lib/libx.so"]}
    (meta / "libx-2.0-0.json").write_text(json.dumps(row))
    (meta / "broken.json").write_text("{")
    (meta / "deep.json").write_text("[" * 100_000)
    report = scan_paths([tmp_path])
    assert [(package.name, len(package.binaries)) for package in report.packages] == [("libx", 1)]
    assert len([text for text in report.problems if "no conda record" in text]) == 2


def test_scan_one_broken_file_spoils_nothing_else(tmp_path: Path) -> None:
    install(tmp_path, "mixed", {"good.so": read("library.so"), "bad.so": read("library.so")[:4096]})
    package = scan_paths([tmp_path]).packages[0]
    by_name = {Path(one.path).name: one for one in package.binaries}
    assert by_name["good.so"].sass
    assert by_name["bad.so"].problems


def test_scan_folder_that_is_none() -> None:
    with pytest.raises(UsageError, match="not a folder"):
        scan_paths([DATA / "nothing"])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_scan_wheel_equals_the_files(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "package-1.2-py3-none-any.whl"
    names = ["library.so", "outside.so", "host_only.so", "sm_90a.cubin", "compute_103a.ptx", "archive.a"]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(f"package/{name}", read(name))
        archive.writestr("package/code.py", "print()")
    report = scan_wheel_report(path)
    assert (report.packages[0].name, report.packages[0].version) == ("package", "1.2")
    found = {Path(one.path).name: one for one in report.packages[0].binaries}
    assert sorted(found) == sorted(set(names) - {"host_only.so"})
    assert report.packages[0].host_only == 1
    direct = tmp_path / "direct"
    direct.mkdir()
    for name in names:
        (direct / name).write_bytes(read(name))
    on_disk = {Path(one.path).name: one for one in scan_paths([direct]).packages[0].binaries}
    for name, one in found.items():
        assert (one.sass, one.ptx, one.outside, one.relocatable, one.groups) == (
            on_disk[name].sass,
            on_disk[name].ptx,
            on_disk[name].outside,
            on_disk[name].relocatable,
            on_disk[name].groups,
        )


def test_scan_wheel_with_a_broken_member_names_it(tmp_path: Path) -> None:
    path = tmp_path / "package-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad.so", read("library.so"))
        archive.writestr("good.so", read("library.so"))
    data = bytearray(path.read_bytes())
    start = 30 + len("bad.so")
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    found = {one.path: one for one in scan_wheel(path)}
    assert "broken" in found["bad.so"].problems[0]
    assert found["good.so"].sass


def test_scan_text_is_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_text("no zip")
    with pytest.raises(UsageError, match="not a readable wheel"):
        scan_wheel(path)


def torch_folder(site: Path, *, cuda: str | None, libraries: dict[str, str]) -> Path:
    folder = site / "torch"
    (folder / "lib").mkdir(parents=True)
    said = f"'{cuda}'" if cuda else "None"
    (folder / "version.py").write_text(
        f"__version__ = '2.99.0'\ncuda: Optional[str] = {said}\nhip: Optional[str] = None\n"
    )
    for name, source in libraries.items():
        (folder / "lib" / name).write_bytes(read(source))
    return folder


def test_scan_torch_with_and_without_code(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path, cuda="13.0", libraries={"libtorch_cuda.so": "library.so"})
    fits = torch_coverage(folder, A100)
    assert (fits.fit, fits.verdict, fits.cause) == (Fit.NATIVE, CodeVerdict.NATIVE, None)
    lacks = torch_coverage(folder, RTX5090)
    assert (lacks.fit, lacks.verdict, lacks.cause) == (Fit.NONE, CodeVerdict.NONE, Cause.WHEEL_NO_ARCH)
    assert lacks.without == ("libtorch_cuda.so",)
    assert "sm_80, sm_86" in lacks.reason


def test_scan_torch_of_conda_keeps_its_libraries_in_the_prefix(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "lib" / "python3.12" / "site-packages", cuda="12.9", libraries={})
    (tmp_path / "lib" / "libtorch_cuda.so").write_bytes(read("library.so"))
    assert torch_coverage(folder, A100).verdict is CodeVerdict.NATIVE


def test_scan_cpu_only_torch_is_named(tmp_path: Path) -> None:
    found = torch_coverage(torch_folder(tmp_path, cuda=None, libraries={"libtorch_cpu.so": "host_only.so"}), A100)
    assert (found.verdict, found.cause) == (CodeVerdict.NO_CODE, Cause.CPU_ONLY_TORCH)


def test_scan_torch_whose_library_is_gone_or_broken(tmp_path: Path) -> None:
    gone = torch_coverage(torch_folder(tmp_path / "a", cuda="13.0", libraries={}), A100)
    assert (gone.verdict, gone.cause) == (CodeVerdict.UNKNOWN, Cause.PYTHON_ENV)
    broken = torch_coverage(torch_folder(tmp_path / "b", cuda="13.0", libraries={"libtorch_cuda.so": "build.sh"}), A100)
    assert broken.verdict is CodeVerdict.UNKNOWN
    none = torch_coverage(tmp_path / "nothing", A100)
    assert (none.verdict, none.cause) == (CodeVerdict.UNKNOWN, Cause.PYTHON_ENV)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch/lib/libtorch_cuda.so", True),
        ("nvidia/lib/libcufft.so.12", True),
        ("x/_C.pyd", True),
        ("bin/tool", True),
        ("x/kernel.cubin", True),
        ("x/__init__.py", False),
        ("x/__pycache__/a.pyc", False),
        ("torch-2.dist-info/RECORD", False),
        (".hidden", True),
    ],
)
def test_scan_names_worth_opening(name: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert may_have_code(name) is expected


def test_scan_of_libraries_alone_leaves_out_programs_and_packages_without_any(tmp_path: Path) -> None:
    for name, files in (("one", ("_C.so", "bin/ptxas", "lib/libx.so.1.2", "x.dat")), ("plain", ("mod.py", "bin/run"))):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "RECORD").write_text("".join(f"{file},sha256={file},7\n" for file in files) + f"{name}.py,,\n")
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_bytes((DATA / "library.so").read_bytes())
    every = scan_paths([tmp_path], deep=False)
    assert [len(one.binaries) for one in every.packages if one.name in ("one", "plain")] == [4, 1]
    (alone,) = scan_paths([tmp_path], deep=False, names=frozenset({"one", "plain"}), libraries_only=True).packages
    assert [Path(one.path).name for one in alone.binaries] == ["_C.so", "libx.so.1.2"]
    assert alone.binaries[0].sha256 == "sha256=_C.so"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/_C.cpython-311-x86_64-linux-gnu.so", True), ("a/libx.so.12", True), ("a/libx.so.12.8.1", True),
        ("a/x.pyd", True), ("a/X.DLL", True), ("a/k.cubin", True), ("a/k.fatbin", True), ("a/k.ptx", True),
        ("a/ptxas", False), ("a/x.so.py", False), ("a/x.sources", False), ("so", False), ("a/x.so.conf", False),
    ],
)  # fmt: skip
def test_scan_what_a_program_loads_by_its_name(name: str, *, expected: bool) -> None:
    assert is_library(name) is expected


@given(st.lists(st.lists(st.text(alphabet='ab," /.\\é', max_size=6), min_size=1, max_size=4), max_size=5))
def test_scan_rows_of_a_record_are_read_as_csv(rows: list[list[str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    expected = [(row[0], row[1] if len(row) > 1 else "") for row in csv.reader(buffer.getvalue().splitlines()) if row]
    assert [one for one in rows_of(buffer.getvalue()) if one[0]] == [one for one in expected if one[0]]
