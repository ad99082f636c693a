"""The journal: chained, locked, redacted, and honest when the disk is not."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence import strict_json
from ongpu.evidence.chain import GENESIS, JournalError, link, read_journal, scan_journal
from ongpu.evidence.cleaning import clean
from ongpu.evidence.journal import Journal, SystemClock
from ongpu.evidence.place import free_sibling
from ongpu.evidence.recompute import recompute
from ongpu.evidence.seal import recover

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples


def plainly(text: str) -> str:
    return text


def start(folder: Path) -> Journal:
    return Journal.create(folder, clock=SystemClock(), redact=plainly)


def test_lines_are_chained_as_documented(tmp_path: Path) -> None:
    journal = start(tmp_path / "run")
    assert [journal.record("phase", {"name": name}) for name in ("a", "b", "c")] == [0, 1, 2]
    head = GENESIS
    for number, line in enumerate((tmp_path / "run" / "journal.jsonl").read_bytes().split(b"\n")[:-1]):
        record = json.loads(line)
        assert (record["seq"], record["prev"]) == (number, head)
        head = link(head, line)
    assert journal.head == head
    assert [one.data["name"] for one in journal.observations()] == ["a", "b", "c"]
    journal.close()
    journal.close()
    with pytest.raises(WorkError, match="closed"):
        journal.record("phase", {})


def test_the_folder_is_private_and_has_nothing_but_the_journal(tmp_path: Path) -> None:
    journal = start(tmp_path / "deep" / "run")
    assert (tmp_path / "deep" / "run").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["journal.jsonl"]
    journal.close()


def test_a_taken_folder_is_never_touched(tmp_path: Path) -> None:
    taken, file, link_to = tmp_path / "m40", tmp_path / "file", tmp_path / "link"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    file.write_text("keep")
    link_to.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for folder in (taken, file, link_to, file / "below"):
        with pytest.raises(UsageError) as caught:
            start(folder)
        assert caught.value.next_step
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]
    assert file.read_text() == "keep"
    assert not (tmp_path / "elsewhere").exists()


def test_free_siblings_are_numbered(tmp_path: Path) -> None:
    folder = tmp_path / "m40_gpu_enablement"
    assert free_sibling(folder) == folder
    folder.mkdir()
    assert free_sibling(folder) == folder, "an empty folder is free"
    start(folder).close()
    assert free_sibling(folder) == tmp_path / "m40_gpu_enablement-2"
    (tmp_path / "m40_gpu_enablement-2").write_text("a file")
    (tmp_path / "m40_gpu_enablement-3").symlink_to(tmp_path / "nowhere")
    assert free_sibling(folder) == tmp_path / "m40_gpu_enablement-4"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    won: list[Journal] = []
    lost: list[UsageError] = []
    gate = threading.Barrier(8)

    def run() -> None:
        gate.wait()
        try:
            won.append(start(folder))
        except UsageError as error:
            lost.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].close()


def test_threads_share_a_journal(tmp_path: Path) -> None:
    journal = start(tmp_path / "run")
    threads = [
        threading.Thread(target=lambda: [journal.record("nvml.sample", {"n": n}) for n in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    observations = journal.observations()
    journal.close()
    assert [one.seq for one in observations] == list(range(800))
    times = [one.t_mono for one in observations]
    assert times == sorted(times)


def test_every_string_is_redacted_first(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "run", clock=SystemClock(), redact=lambda text: text.replace("canary", "***"))
    journal.record("phase", {"canary": ["a canary", {"x": ("canary",)}], "path": Path("/canary/x")})
    journal.close()
    data = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert b"canary" not in data
    assert data.count(b"***") == 4


# C57: a record that JSON cannot carry.
def test_what_json_cannot_carry_is_replaced_and_named(tmp_path: Path) -> None:
    journal = start(tmp_path / "run")
    deep: object = 1
    for _ in range(50):
        deep = [deep]
    journal.record(
        "hook",
        {"loss": math.nan, "grads": [1.0, math.inf], "big": 2**60, "text": "a\udc80b", "deep": deep, "raw": b"\xff"},
    )
    journal.record("text", {"text": "x" * 100_000})
    journal.record("text", {f"k{n}": "x" * 60_000 for n in range(30)})
    first, second, third = journal.observations()
    journal.close()
    assert first.data["loss"] is None
    assert first.data["grads"] == [1.0, None]
    assert first.data["big"] == str(2**60)
    assert first.data["text"] == "a\ufffdb"
    replaced = first.data["replaced"]
    assert isinstance(replaced, list)
    named = {one.split(":")[0].split("[")[0] for one in replaced}
    assert named == {"loss", "grads", "big", "text", "deep", "raw"}
    assert second.data["replaced"] == ["text: a text of 100000 characters"]
    assert set(third.data) == {"replaced", "run_id"}, "a line too long is replaced whole"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec=None)), JSON, max_size=5))
def test_whatever_is_cleaned_can_be_read_strictly(data: dict[str, object]) -> None:
    cleaned = clean(data, plainly)
    line = json.dumps(cleaned, allow_nan=False).encode("ascii")
    assert strict_json.parse(line) == cleaned


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"9007199254740993",
        b"9" * 100_000,
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b"[" * 33 + b"]" * 33,
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"[1,]",
        b"{'a':1}",
        b'"\x00"',
        b'"a\tb"',
        b"01",
        b"1 2",
        b"tru",
    ],
)
def test_json_tricks_are_refused(bad: bytes) -> None:
    with pytest.raises(strict_json.StrictJsonError):
        strict_json.parse(bad)


@given(st.binary(max_size=200))
def test_the_strict_reader_raises_nothing_else(data: bytes) -> None:
    with contextlib.suppress(strict_json.StrictJsonError):
        strict_json.parse(data)


def journal_bytes(tmp_path: Path) -> bytes:
    journal = start(tmp_path / "run")
    journal.record("run.start", {"run_id": "a", "simulated": False})
    journal.record("phase", {"name": "b"})
    journal.record("run.end", {"how": "completed"})
    journal.close()
    return (tmp_path / "run" / "journal.jsonl").read_bytes()


# C48: a power cut may leave any prefix of the file.
def test_every_prefix_is_recovered_or_refused(tmp_path: Path) -> None:
    data = journal_bytes(tmp_path)
    ends = [at + 1 for at, byte in enumerate(data) if byte == 0x0A]
    for cut in range(len(data) + 1):
        reading = scan_journal(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert len(reading.observations) == whole
        assert reading.good_bytes == max([0, *(end for end in ends if end <= cut)])
        if reading.torn_bytes:
            with pytest.raises(JournalError):
                read_journal(data[:cut])


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    data = journal_bytes(tmp_path)
    head = scan_journal(data).head
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x01
        try:
            reading = scan_journal(bytes(changed))
        except JournalError:
            continue
        assert reading.head != head, at


class BrokenDisk:
    """The real write, until it is told to fail as a disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write = os.write
        self.code: int | None = None
        self.left = 0
        self.fired = 0
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        if self.code is None:
            return self.write(fd, data)
        if self.left > 0:
            taken = self.write(fd, bytes(data)[: self.left])
            self.left -= taken
            return taken
        self.fired += 1
        raise OSError(self.code, os.strerror(self.code))


# C49: the disk fills up in the middle of a line.
def test_a_full_disk_leaves_a_readable_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = start(tmp_path / "run")
    journal.record("phase", {"name": "before"})
    disk = BrokenDisk(monkeypatch)
    disk.code, disk.left = errno.ENOSPC, 40
    with pytest.raises(WorkError, match="No space") as caught:
        journal.record("phase", {"name": "lost"})
    assert disk.fired
    assert "space" in caught.value.next_step
    disk.code = None
    journal.record("phase", {"name": "after"})
    names = [one.data.get("name") for one in journal.observations()]
    journal.close()
    assert names == ["before", "after"]


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_really_full_disk_keeps_room_for_the_last_word(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        journal = start(disk / "run")
        with pytest.raises(WorkError, match="No space"):
            for _ in range(5_000):
                journal.record("phase", {"text": "x" * 1000})
        observations = journal.observations()
        journal.record("run.end", {"how": "failed"})
        journal.close()
        assert observations[-1].kind == "journal.error"
        assert observations[-1].data["code"] == "ENOSPC"
        data = (disk / "run" / "journal.jsonl").read_bytes()
        assert read_journal(data)[-1].kind == "run.end"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_journal_that_has_grown_too_long_says_so(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "run", clock=SystemClock(), redact=plainly, stream_limit_bytes=4000)
    numbers = [journal.record("energy", {"n": n}) for n in range(100)]
    end = journal.record("run.end", {"end": "completed"})
    observations = journal.observations()
    journal.close()
    (full,) = [one for one in observations if one.kind == "journal.full"]
    assert set(numbers[full.seq :]) == {full.seq}, "dropped readings are given the number of what says so"
    assert end == full.seq + 1 == len(observations) - 1


# C50: folders that cannot take evidence. (Root may write anywhere, so a read-only folder is a file system's matter.)
@pytest.mark.parametrize("name", ["x" * 300, "proc"])
def test_folders_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    folder = Path("/proc/ongpu-evidence") if name == "proc" else tmp_path / name
    with pytest.raises(UsageError, match="cannot take evidence") as caught:
        start(folder)
    assert "--evidence" in caught.value.next_step


# C52: no file descriptors left.
def test_no_descriptors_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = []

    def none_left(*_args: object, **_more: object) -> int:
        fired.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        with pytest.raises(UsageError, match="Too many open files"):
            start(tmp_path / "run")
    assert fired
    start(tmp_path / "run").close()


# C53: the wall clock jumps both ways and the machine sleeps; durations rest on the monotonic clock.
def test_a_clock_that_jumps_is_told_and_changes_no_duration(samples: Samples) -> None:
    folder, journal = samples.write("a", clock_jumps_s=(3600.0, -7200.0))
    from ongpu.evidence.seal import seal

    seal(folder, journal, verdict=recompute(journal.observations()))
    report = samples.check(folder)
    assert (report.answer, report.outcome) == ("accepted", "proven")
    assert any("wall clock was changed" in note for note in report.notes)
    still = samples.bundle("b")
    durations = [json.loads((one / "manifest.json").read_text())["predicate"]["duration_us"] for one in (folder, still)]
    assert durations[0] == durations[1]


# C54: odd names and a C locale.
@pytest.mark.process
@pytest.mark.parametrize("name", ["emoji \U0001f525", "new\nline", "-dash", "x" * 200, "caf\u00e9"])
def test_odd_folder_names_in_a_c_locale(samples: Samples, name: str) -> None:
    folder = samples.root / name
    script = WRITER.replace("while True:", "for _ in range(3):")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", script, folder], env=environment, capture_output=True, check=True)
    assert done.stdout == b"ready\n"
    recover(folder, clock=SystemClock(), boot_id="x", redact=plainly)
    assert samples.check(folder).answer == "accepted"
    for path in folder.iterdir():
        path.read_text("utf-8")


# C47 and C51: a supervisor that is killed leaves a journal that is free again and can be sealed.
WRITER = """
import sys, time
from pathlib import Path
from ongpu.evidence.journal import Journal, SystemClock
from ongpu.evidence.seal import new_start
journal = Journal.create(Path(sys.argv[1]), clock=SystemClock(), redact=lambda text: text)
journal.record("run.start", {**new_start(profile="run", simulated=False, tool_version="0", boot_id="x")})
print("ready", flush=True)
while True:
    journal.record("nvml.sample", {"role": "train", "n": 0, "t_mono": time.monotonic(), "devices": []})
"""


@pytest.mark.process
def test_a_killed_supervisor_leaves_no_lock_and_no_proof(tmp_path: Path, samples: Samples) -> None:
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(UsageError, match="not empty"):
            start(folder)
        with pytest.raises(UsageError, match="still being written"):
            recover(folder, clock=SystemClock(), boot_id="x", redact=plainly)
        child.kill()
        assert child.wait() == -9
    refused = samples.check(folder)
    assert refused.problems[0].obligation == 7
    with (folder / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"seq":')
    recover(folder, clock=SystemClock(), boot_id="x", redact=plainly)
    last = read_journal((folder / "journal.jsonl").read_bytes())[-1]
    assert last.kind == "recovered"
    assert last.data["dropped_bytes"] == 7


def test_recovering_what_cannot_be(tmp_path: Path, samples: Samples) -> None:
    def again(folder: Path) -> None:
        recover(folder, clock=SystemClock(), boot_id="x", redact=plainly)

    with pytest.raises(UsageError, match="sealed already"):
        again(samples.bundle("sealed"))
    with pytest.raises(UsageError, match="cannot be opened"):
        again(tmp_path / "nowhere")
    start(tmp_path / "empty").close()
    with pytest.raises(RefusedError, match="no complete record"):
        again(tmp_path / "empty")
    folder, journal = samples.write("damaged")
    journal.close()
    path = folder / "journal.jsonl"
    data = path.read_bytes().replace(b'"status":0', b'"status":1')
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="chain value"):
        again(folder)
    assert path.read_bytes() == data


def test_a_crash_before_the_seal_is_never_proven(samples: Samples) -> None:
    folder, journal = samples.write("a")
    assert recompute(journal.observations()).outcome == "proven"
    journal.close()
    (folder / ".manifest.json.tmp").write_text("half")
    recover(folder, clock=SystemClock(), boot_id="x", redact=plainly)
    report = samples.check(folder)
    assert (report.answer, report.outcome) == ("accepted", "unknown")
