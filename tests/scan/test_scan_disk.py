"""Files that are read several at a time are read as one after the other."""

from __future__ import annotations

import os
from pathlib import Path

from ongpu.domain.coverage import BinaryCoverage
from ongpu.scan.disk import look, read_large, statuses_of

DATA = Path(__file__).parent / "data"


def test_several_at_a_time_is_the_same_as_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no binary")
    paths = [*sorted(map(str, DATA.iterdir())), str(tmp_path / "text.txt")]
    statuses = statuses_of(paths)
    group = dict.fromkeys(paths)
    alone = read_large([group], statuses, large_bytes=0, patience_s=60.0)
    together = read_large([group], statuses, large_bytes=0, patience_s=-1.0)
    assert alone == together
    assert together[str(tmp_path / "text.txt")] is None
    assert sum(isinstance(one, BinaryCoverage) for one in together.values()) > 10


def test_of_one_digest_the_first_is_read_and_small_files_are_not() -> None:
    paths = [str(DATA / "library.so"), str(DATA / "outside.so"), str(DATA / "host_only.so")]
    group = {paths[0]: "sha256=x", paths[1]: "sha256=x", paths[2]: None}
    for patience_s in (60.0, -1.0):
        assert set(read_large([group], statuses_of(paths), large_bytes=0, patience_s=patience_s)) == {
            paths[0],
            paths[2],
        }
    assert read_large([group], statuses_of(paths)) == {}


def test_one_file_under_two_paths_is_looked_at_once_and_a_missing_one_is_told(tmp_path: Path) -> None:
    first, second, missing = (tmp_path / name for name in ("a.so", "b.so", "c.so"))
    first.write_bytes((DATA / "library.so").read_bytes())
    second.symlink_to(first)
    os.mkfifo(tmp_path / "pipe.so")
    statuses = statuses_of(map(str, (first, second, missing, tmp_path / "pipe.so")))
    assert set(statuses) == {str(first), str(missing)}
    assert isinstance(look(str(missing), statuses[str(missing)], deep=True), FileNotFoundError)
    first.unlink()
    assert isinstance(look(str(first), statuses[str(first)], deep=True), FileNotFoundError)
