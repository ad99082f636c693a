"""Reading a wheel's own word about what it was built for, and knowing when the catalog is behind."""

from __future__ import annotations

import datetime
import io
import json
import random
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu import catalog
from ongpu.catalog import CatalogError
from ongpu.catalog.fresh import freshness, releases_of, unknown_releases
from ongpu.catalog.update import LocalFile, RemoteFile, pythons_of, read_wheel, row_text, with_rows
from ongpu.errors import DoorError, OngpuError, UsageError, WorkError
from ongpu.plan import Request, plan
from ongpu.plan.refresh import read_target, releases_on_pypi

TODAY = datetime.date(2027, 1, 10)
NAME = "torch-2.16.0-cp312-cp312-manylinux_2_28_x86_64.whl"
FLAGS = b"\x00sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120\x00"


def wheel(
    *,
    version: str = "__version__ = '2.16.0+cu134'\ncuda: Optional[str] = '13.4'\n",
    flags: bytes = FLAGS,
    short: bytes = b"\x00sm_80\x00",
) -> bytes:
    """A wheel with the two parts that are read, and half a megabyte that is not."""
    noise = random.Random(7).randbytes(1 << 19)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("torch/lib/libtorch_cuda.so", noise)
        archive.writestr("torch/version.py", version)
        archive.writestr("torch/lib/libtorch_python.so", b"\x7fELF" + short + noise[:999] + flags + noise[:99])
    return out.getvalue()


def local(data: bytes) -> LocalFile:
    return LocalFile(io.BufferedReader(io.BytesIO(data)))


def test_a_wheel_says_what_it_was_built_for() -> None:
    build = read_wheel(local(wheel()), file_name=NAME, checked="2027-01-10", on_pypi=False)
    assert build.label == "2.16.0+cu134"
    assert (build.os, build.arch, build.pythons) == ("linux", "x86_64", ("3.12",))
    assert [str(one) for one in build.targets] == FLAGS.decode().strip("\0").split(" ")
    assert build.evidence == "binary"
    assert build.source.startswith("read from binary")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (NAME, "__version__ = '2.16.0'\ncuda = '13.4'\n", ("cu134", "linux", "x86_64", "3.12")),
        (NAME, "__version__ = '2.16.0+cpu'\ncuda = None\n", ("cpu", "linux", "x86_64", "3.12")),
        (
            "torch-2.16.0-cp314-cp314t-manylinux_2_28_aarch64.whl",
            "__version__ = '2.16.0'\ncuda: Optional[str] = None\n",
            ("cpu", "linux", "aarch64", "3.14t"),
        ),
        (
            "torch-2.16.0-3-cp313-cp313-win_amd64.whl",
            "__version__ = '2.16.0+cu132'\n",
            ("cu132", "windows", "x86_64", "3.13"),
        ),
        (
            "torch-2.17.0.dev20270101%2Bcu134-cp312-cp312-manylinux_2_28_x86_64.whl",
            "__version__ = '2.17.0.dev20270101+cu134'\n",
            ("cu134", "linux", "x86_64", "3.12"),
        ),
    ],
)
def test_names_and_versions_of_every_form_are_read(name: str, version: str, expected: tuple[str, ...]) -> None:
    build = read_wheel(local(wheel(version=version)), file_name=name, checked="2027-01-10", on_pypi=False)
    assert (build.cuda_tag, build.os, build.arch, *build.pythons) == expected
    assert bool(build.targets) == (expected[0] != "cpu")
    assert build.channel == ("nightly" if "dev" in name else "stable")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("numpy-2.0-py3-none-any.whl", wheel(), "its name"),
        (NAME, b"not a zip", "cannot be read"),
        (NAME, wheel()[:-200], "cannot be read"),
        (NAME, b"", "cannot be read"),
        (NAME, wheel(flags=b"", short=b""), "does not say"),
        (NAME, wheel(version="nothing"), "CUDA tag"),
        (NAME, wheel(version="__version__ = '2.16.0+rocm7.0'\n"), "rocm7.0"),
        ("torch-2.16.0-cp312-cp312-macosx_14_0_arm64.whl", wheel(), "no platform"),
    ],
)
def test_what_is_no_torch_wheel_is_refused_by_name(name: str, data: bytes, said: str) -> None:
    with pytest.raises(WorkError) as refused:
        read_wheel(local(data), file_name=name, checked="2027-01-10", on_pypi=False)
    assert said in refused.value.message
    assert refused.value.next_step


def test_only_the_parts_that_are_needed_are_fetched() -> None:
    data = wheel()
    big = io.BytesIO()
    with zipfile.ZipFile(big, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("torch/lib/libtorch_cuda.so", bytes(40 << 20))
        with zipfile.ZipFile(io.BytesIO(data)) as small:
            for member in ("torch/version.py", "torch/lib/libtorch_python.so"):
                archive.writestr(member, small.read(member))
    whole = big.getvalue()
    remote = RemoteFile(size_bytes=len(whole), fetch=lambda first, last: whole[first : last + 1])
    build = read_wheel(remote, file_name=NAME, checked="2027-01-10", on_pypi=True)
    assert build.pypi_default
    assert remote.fetched_bytes < len(whole) / 8


@given(cut=st.integers(min_value=0, max_value=len(wheel()) - 1), flip=st.integers(min_value=1, max_value=255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_wheel_is_read_or_refused(cut: int, flip: int) -> None:
    data = bytearray(wheel())
    data[cut] ^= flip
    try:
        read_wheel(local(bytes(data)), file_name=NAME, checked="2027-01-10", on_pypi=False)
    except OngpuError as refused:
        assert refused.next_step


def test_a_new_row_is_planned_with_and_a_false_one_refused() -> None:
    build = read_wheel(local(wheel()), file_name=NAME, checked="2027-01-10", on_pypi=True)
    wider = with_rows(catalog.load(), row_text([build]), file="extra.csv")
    assert len(wider.builds) == len(catalog.load().builds) + 1
    assert wider.date == "2027-01-10"
    decision = plan(catalog.described_machine("rtx5090-linux"), catalog=wider, request=Request(python="3.12"))
    assert (decision.torch, decision.cuda_tag) == ("2.16.0", "cu134")
    for change, said in (("cu126", "after 2.14"), ("cu13x", "not a CUDA tag")):
        with pytest.raises(CatalogError, match=said):
            with_rows(catalog.load(), row_text([build]).replace(",cu134,", f",{change},"), file="extra.csv")
    with pytest.raises(CatalogError, match=r"extra\.csv has no rows"):
        with_rows(catalog.load(), row_text([]), file="extra.csv")


def test_the_shipped_rows_are_the_same_after_writing_and_reading() -> None:
    builds = catalog.load().builds
    again = with_rows(catalog.load(), row_text(builds), file="again.csv")
    assert again.builds == builds


def listing(*names: str, yanked: tuple[str, ...] = ()) -> bytes:
    files = [{"filename": one, "url": f"https://files.example/{one}", "yanked": one in yanked} for one in names]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "torch", "files": files}).encode()


def test_a_release_the_catalog_does_not_know_is_named() -> None:
    more = ("torch-2.15.0-cp312-cp312-win_amd64.whl", "torch-2.17.0rc1-cp312-cp312-win_amd64.whl")
    document = listing(NAME, *more, "torch-1.0.0-cp36-cp36m-linux_x86_64.whl")
    assert releases_of(document) == ("1.0.0", "2.15.0", "2.16.0")
    assert unknown_releases(catalog.load().builds, releases_of(document)) == ("2.16.0",)
    report = freshness(catalog.load().builds, today=TODAY, on_index=releases_of(document))
    assert report.stale
    assert "2.16.0" in report.text
    assert "catalog update" in report.text


def test_the_age_is_said_and_an_index_that_was_not_asked_is_not_claimed() -> None:
    young = freshness(catalog.load().builds, today=datetime.date(2026, 11, 23))
    assert (young.age_days, young.stale, young.asked) == (1, False, False)
    assert "index" not in young.text
    assert freshness(catalog.load().builds, today=datetime.date(2027, 6, 1)).stale
    asked = freshness(catalog.load().builds, today=datetime.date(2026, 11, 23), on_index=["2.15.0"])
    assert "no newer release" in asked.text


def test_yanked_files_do_not_count_and_other_documents_are_refused() -> None:
    assert releases_of(listing(NAME, yanked=(NAME,))) == ()
    for document in (b"[]", b"{}", b'{"files": 3}', b"<html>"):
        with pytest.raises(ValueError, match=r".+"):
            releases_of(document)


def test_the_pythons_of_a_release_come_from_its_file_names() -> None:
    names = [
        f"torch-2.16.0-cp{tag}-manylinux_2_28_x86_64.whl" for tag in ("39-cp39", "312-cp312", "314-cp314t", "314-cp314")
    ]
    assert pythons_of(names, release="2.16.0", platform="manylinux_2_28_x86_64") == ("3.9", "3.12", "3.14", "3.14t")


class ReplayedWeb:
    """The web as one recording of an index and its wheels; anything else fails as the door does."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self._pages = pages

    def get(
        self,
        url: str,
        *,
        timeout_s: float,
        limit_bytes: int,
        accept: str | None = None,
        first_byte: int | None = None,
        last_byte: int | None = None,
    ) -> bytes:
        if url not in self._pages:
            raise DoorError(door="index", code="unreachable", reason=f"{url}: no route")
        whole = self._pages[url]
        return whole[first_byte or 0 : len(whole) if last_byte is None else last_byte + 1]

    def size_bytes(self, url: str, *, timeout_s: float) -> int:
        return len(self.get(url, timeout_s=timeout_s, limit_bytes=1 << 30))


def test_a_release_on_pypi_is_read_for_every_platform_it_has() -> None:
    arm = "torch-2.16.0-cp312-cp312-manylinux_2_28_aarch64.whl"
    web = ReplayedWeb(
        {
            "https://pypi.org/simple/torch/": listing(NAME, arm),
            f"https://files.example/{NAME}": wheel(),
            f"https://files.example/{arm}": wheel(flags=b"\x00sm_80 sm_90 sm_100 sm_110 sm_120\x00"),
        }
    )
    rows = read_target("2.16.0", web=web, today=TODAY)
    assert [(one.arch, len(one.targets)) for one in rows] == [("x86_64", 7), ("aarch64", 5)]
    assert all(one.pypi_default for one in rows)
    assert releases_on_pypi(web) == ("2.16.0",)
    with pytest.raises(UsageError, match=r"newest is 2\.16\.0"):
        read_target("2.99.0", web=web, today=TODAY)
    with pytest.raises(UsageError, match="no file"):
        read_target("nothing.whl", web=web, today=TODAY)
    with pytest.raises(WorkError, match="could not be fetched"):
        read_target(f"https://other.example/{NAME}", web=web, today=TODAY)
    with pytest.raises(DoorError):
        releases_on_pypi(ReplayedWeb({"https://pypi.org/simple/torch/": b"<html>"}))
