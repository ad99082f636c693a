"""The shipped facts: whole, consistent, and refused by file and line where they are not."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu import catalog
from ongpu.catalog import CatalogError, read
from ongpu.catalog.check import check
from ongpu.domain.arch import CodeKind
from ongpu.errors import UsageError

CATALOG = catalog.load()
TABLES = {
    "builds.csv": read.build_row,
    "gpus.csv": read.gpu_row,
    "generations.csv": read.generation_row,
    "branches.csv": read.branch_row,
    "toolkits.csv": read.toolkit_row,
    "companions.csv": read.companion_row,
    "glibc.csv": read.glibc_row,
    "retired.csv": read.retired_row,
}


def cells(file: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(read.table_text(file))))


def text_of(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def test_the_facts_that_the_milestone_rests_on() -> None:
    cu124 = [one for one in CATALOG.builds if one.cuda_tag == "cu124"]
    assert cu124
    assert all(one.number < 100 for build in cu124 for one in build.targets)
    with_120 = [one for one in CATALOG.builds if any(str(target) == "sm_120" for target in one.targets)]
    assert min(tuple(int(part) for part in one.torch.split(".")[:2]) for one in with_120) == (2, 7)
    stable = [one for one in CATALOG.builds if one.cuda_tag.startswith("cu12") and one.channel == "stable"]
    assert max(tuple(int(part) for part in one.torch.split(".")) for one in stable) == (2, 14, 1)


def test_no_windows_build_of_pypi_has_cuda() -> None:
    assert {one.cuda_tag for one in CATALOG.builds if one.os == "windows" and one.pypi_default} == {"cpu"}


def test_what_was_read_from_binaries_has_no_ptx() -> None:
    read_ones = [one for one in CATALOG.builds if one.evidence == "binary"]
    assert len(read_ones) > 30
    assert not [one for one in read_ones if any(target.kind is not CodeKind.SASS for target in one.targets)]


def test_nothing_of_a_workplace_stands_in_a_source() -> None:
    for file in TABLES:
        for row in cells(file)[1:]:
            # No path of a machine (an index folder such as /whl/cu128 is none), no key of a private store.
            assert not re.search(r"(^|\s)/(?!whl/)\w|[A-Z]:\\|\bids? \d{6}", " ".join(row)), row


@pytest.mark.parametrize("file", TABLES)
def test_every_row_has_a_source_and_a_date(file: str) -> None:
    header, *rows = cells(file)
    assert rows
    for row in rows:
        named = dict(zip(header, row, strict=True))
        assert named["source"].strip()
        assert re.match(r"\d{4}-\d{2}-\d{2}$", named["checked"])


def required() -> list[tuple[str, int]]:
    """Each column whose cells may never be nonsense: those that are parsed, of every table."""
    free = {"source", "class", "note", "generation", "update", "torch_from", "torch_to", "date_to", "version", "name"}
    found = []
    for file in TABLES:
        header = cells(file)[0]
        found += [(file, place) for place, name in enumerate(header) if name not in free]
    return found


@pytest.mark.parametrize(("file", "column"), required())
def test_a_broken_cell_is_named_by_file_and_line(file: str, column: int) -> None:
    rows = cells(file)
    line = min(4, len(rows) - 1)
    rows[line][column] = "not a fact"
    with pytest.raises(CatalogError) as refused:
        read.parse(text_of(rows), file=file, make=TABLES[file])
    assert f"{file}, line {line + 1}" in refused.value.message
    assert refused.value.next_step


@given(data=st.data(), text=st.text(max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_cell_is_read_or_refused_by_file_and_line(data: st.DataObject, text: str) -> None:
    file = data.draw(st.sampled_from(sorted(TABLES)))
    rows = cells(file)
    line = data.draw(st.integers(min_value=0, max_value=len(rows) - 1))
    column = data.draw(st.integers(min_value=0, max_value=len(rows[0]) - 1))
    rows[line][column] = text
    try:
        read.parse(text_of(rows), file=file, make=TABLES[file])
    except CatalogError as refused:
        assert refused.message.startswith(file)


@pytest.mark.parametrize("file", TABLES)
def test_a_missing_cell_and_a_missing_column_are_named(file: str) -> None:
    rows = cells(file)
    rows[2] = rows[2][:-1]
    with pytest.raises(CatalogError, match="line 3"):
        read.parse(text_of(rows), file=file, make=TABLES[file])
    short = [row[1:] for row in cells(file)]
    with pytest.raises(CatalogError, match="no column"):
        read.parse(text_of(short), file=file, make=TABLES[file])
    with pytest.raises(CatalogError, match="empty"):
        read.parse("", file=file, make=TABLES[file])


def test_a_row_without_a_source_is_refused() -> None:
    rows = cells("builds.csv")
    rows[5][-1] = " "
    with pytest.raises(CatalogError, match=r"builds\.csv, line 6: no source"):
        read.parse(text_of(rows), file="builds.csv", make=read.build_row)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"torch": "2.16.0", "cuda_tag": "cu126"}, "after 2.14"),
        ({"cuda_tag": "cu124", "sass": "sm_90 sm_120"}, "12.8"),
        ({"sass": "sm_90 sm_80"}, "rising order"),
        ({"os": "windows", "pypi_default": "yes"}, "CPU-only"),
        ({"cuda_tag": "cpu"}, "CPU build has code"),
        ({"cuda_tag": "cu139"}, "no CUDA 13.9"),
    ],
)
def test_a_fact_that_cannot_be_true_is_refused(change: dict[str, str], said: str) -> None:
    rows = cells("builds.csv")
    row = dict(zip(rows[0], rows[-1], strict=True))
    row |= {"torch": "2.14.2", "channel": "stable", "cuda_tag": "cu130", "os": "linux", "arch": "x86_64", "ptx": ""}
    row |= {"pypi_default": "no", **change}
    rows.append([row[name] for name in rows[0]])
    builds = read.parse(text_of(rows), file="builds.csv", make=read.build_row)
    with pytest.raises(CatalogError, match=said):
        check(
            builds=builds,
            gpus=CATALOG.gpus,
            generations=CATALOG.generations,
            branches=CATALOG.branches,
            toolkits=CATALOG.drivers,
        )


def test_a_row_said_twice_and_a_field_lost_are_refused() -> None:
    rows = cells("builds.csv")
    for extra, said in (([*rows[8]], "already on line"), (None, "has lost the Pythons")):
        more = [*rows]
        if extra is None:
            place = next(n for n, row in enumerate(rows) if row[0] == "2.14.1" and row[2] == "cu126")
            more[place] = [*rows[place]]
            more[place][rows[0].index("pythons")] = ""
        else:
            more.append(extra)
        builds = read.parse(text_of(more), file="builds.csv", make=read.build_row)
        with pytest.raises(CatalogError, match=said):
            check(
                builds=builds,
                gpus=CATALOG.gpus,
                generations=CATALOG.generations,
                branches=CATALOG.branches,
                toolkits=CATALOG.drivers,
            )


@pytest.mark.parametrize(
    ("typed", "capability"),
    [
        ("RTX 5090", "12.0"),
        ("nvidia geforce rtx 5090", "12.0"),
        ("rtx5090", "12.0"),
        ("4090", "8.9"),
        ("RTX 3050 A Laptop GPU", "8.9"),
        ("RTX 3050", "8.6"),
        ("Quadro RTX 6000", "7.5"),
        ("RTX 6000 Ada", "8.9"),
        ("RTX PRO 6000 Blackwell Workstation Edition", "12.0"),
        ("RTX A6000", "8.6"),
        ("GTX TITAN X", "5.2"),
        ("TITAN X (Pascal)", "6.1"),
        ("TITAN V", "7.0"),
        ("H100", "9.0"),
        ("B200", "10.0"),
        ("B300", "10.3"),
        ("GB10", "12.1"),
        ("Thor", "11.0"),
        ("Orin", "8.7"),
        ("Tesla K80", "3.7"),
    ],
)
def test_a_gpu_is_found_by_what_people_call_it(typed: str, capability: str) -> None:
    assert str(CATALOG.find_gpu(typed).compute_capability) == capability


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("RTX 5091", "RTX 5090"),
        ("RTX 6000", "Quadro RTX 6000"),
        ("Titan X", "TITAN X (Pascal)"),
        ("Blackwell", "Blackwell"),
        ("3050", "8.9"),
        ("", "model name"),
        ("NVIDIA", "model name"),
    ],
)
def test_an_unknown_or_ambiguous_gpu_offers_names(typed: str, offered: str) -> None:
    with pytest.raises(UsageError) as refused:
        CATALOG.find_gpu(typed)
    assert offered in refused.value.next_step


@pytest.mark.parametrize("row", CATALOG.gpus, ids=lambda one: one.name)
def test_every_name_of_the_catalog_finds_its_own_capability(row: catalog.GpuRow) -> None:
    assert CATALOG.find_gpu(row.name).compute_capability == row.compute_capability


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_name_is_found_or_refused(text: str) -> None:
    try:
        CATALOG.find_gpu(text)
    except UsageError as refused:
        assert refused.next_step


@pytest.mark.parametrize(
    ("driver", "branch"),
    [((580, 95, 5), 580), ((581, 29), 580), ((572, 16), 570), ((576, 2), 575), ((528, 33), 525), ((999, 1), 615)],
)
def test_a_driver_belongs_to_the_branch_below_it(driver: tuple[int, ...], branch: int) -> None:
    row = CATALOG.branch(driver)
    assert row is not None
    assert row.branch == branch


def test_a_driver_older_than_all_has_no_branch() -> None:
    assert CATALOG.branch((430, 50)) is None


def test_there_are_at_least_ten_described_machines() -> None:
    names = catalog.described_machines()
    assert len(names) >= 10
    assert {"rtx5090-linux", "rtx5090-windows", "gtx1080ti-linux", "v100-linux", "gb10-aarch64"} <= set(names)
    with pytest.raises(UsageError, match="rtx5090-linux"):
        catalog.described_machine("rtx5090-linx")
