"""Faults of the supervisor, its streams, its disk and its clocks, done to a whole ``ongpu run``."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Pretended

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="Linux only")]
slow = pytest.mark.slow_fault


@slow
def test_what_the_faults_are_done_to_is_proven(pretended: Pretended) -> None:
    pretended.honest()


# -- 45, 46: signals -------------------------------------------------------------------------------------------------


def test_a_run_under_nohup_survives_the_hangup(pretended: Pretended) -> None:
    """As ``nohup`` does it: the hangup is ignored, by the supervisor and by what it runs."""
    running = pretended.start(pretended.training(seconds=1.5), before=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"])
    pretended.await_lines(8, running)
    running.send_signal(signal.SIGHUP)
    for pid in pretended.orphans():
        if pid != running.pid and os.getsid(pid) != os.getsid(0):
            os.kill(pid, signal.SIGHUP)  # what `kill` from elsewhere, or a logout, sends to all
    _, err = running.communicate(timeout=60)
    assert (running.returncode, pretended.outcome()) == (0, "proven"), err.decode()
    assert pretended.records()[-1]["data"]["end"] == "completed"  # type: ignore[index]
    assert "<redacted:PRETENDED_API_TOKEN>" in (pretended.root / "ev" / "training_log.txt").read_text()


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_at_any_moment_seals_what_was_seen(pretended: Pretended, number: signal.Signals) -> None:
    running = pretended.start(pretended.training(seconds=20))
    pretended.await_lines(pretended.chance.randrange(1, 30), running)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0 and b"pretended_ongpu" not in err, err.decode()
    assert pretended.outcome() == "unknown"


@slow
def test_ctrl_c_twice_is_no_more_than_once(pretended: Pretended) -> None:
    running = pretended.start(pretended.training(seconds=20))
    pretended.await_lines(8, running)
    for _ in range(2):
        running.send_signal(signal.SIGINT)
        time.sleep(pretended.chance.random() * 0.2)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130 and b"pretended_ongpu" not in err, err.decode()
    assert pretended.outcome() == "unknown"


@slow
def test_interrupts_while_it_is_sealed_leave_a_whole_bundle_or_one_to_recover(pretended: Pretended) -> None:
    """From the last record of the command on, at a moment of its own each time; three of them are an insistence."""
    running = pretended.start(pretended.training(seconds=0.3))
    journal = pretended.root / "ev" / "journal.jsonl"
    while running.poll() is None and not (journal.exists() and b'"guard.end"' in journal.read_bytes()):
        time.sleep(0.001)
    time.sleep(pretended.chance.random() * 0.05)
    fired = 0
    for _ in range(pretended.chance.randrange(1, 5)):
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            fired += 1
        time.sleep(0.003)
    _, err = running.communicate(timeout=60)
    assert fired and b"pretended_ongpu" not in err, err.decode()
    sealed = (pretended.root / "ev" / "manifest.json").exists()
    assert sealed or b"ongpu evidence recover" in err, err.decode()
    # One that struck before the command's last word was taken has interrupted the run, and is sealed as that.
    whole = sealed and pretended.records()[-1]["data"].get("end") == "completed"  # type: ignore[attr-defined]
    assert pretended.outcome() == ("proven" if whole else "unknown")


# -- 47, 48: the supervisor is killed --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [pytest.param(n, marks=[slow] if n else []) for n in range(6)])
def test_a_killed_supervisor_leaves_nothing_alive_and_nothing_proven(pretended: Pretended, part: int) -> None:
    """At a record of its own each time, over the whole length of a journal."""
    running = pretended.start(pretended.training(seconds=3))
    count = part * 6 + pretended.chance.randrange(1, 7)
    pretended.await_lines(count, running)
    assert running.poll() is None, "it ended before it could be killed"
    running.kill()
    running.communicate(timeout=30)
    assert not (pretended.root / "ev" / "manifest.json").exists()
    assert pretended.outcome() == "unknown"


@slow
def test_a_journal_cut_anywhere_is_never_proven(pretended: Pretended) -> None:
    """What a power cut leaves of a run that would have been proven: 60 cuts of its journal, recovered."""
    pretended.honest()
    whole = (pretended.root / "honest" / "journal.jsonl").read_bytes()
    for number in range(60):
        folder = pretended.root / f"cut{number}"
        shutil.copytree(pretended.root / "honest", folder, ignore=shutil.ignore_patterns("manifest.json"))
        first = whole.index(b"\n") + 1
        (folder / "journal.jsonl").write_bytes(whole[: pretended.chance.randrange(first, len(whole))])
        assert pretended.outcome(folder.name) == "unknown"


# -- 49 to 52: the disk and other limits -----------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("part", range(4))
def test_a_disk_that_fills_up_is_told_and_never_proven(pretended: Pretended, part: int) -> None:
    """No file may grow beyond a limit, which is what a full disk is to a program; drawn over what a journal needs."""
    limit_kib = part * 4 + pretended.chance.randrange(1, 5)
    shell = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash"]
    ran = pretended.run(pretended.training(seconds=1.5), before=shell)
    assert ran.status in {1, 2} and "pretended_ongpu" not in ran.err, ran.err
    assert "File too large" in ran.err and "Next: " in ran.err
    if (pretended.root / "ev").exists():
        assert pretended.outcome() == "unknown"


@slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_really_full_disk(pretended: Pretended) -> None:
    disk = pretended.root / "disk"
    disk.mkdir()
    size = pretended.chance.randrange(300, 420)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        command = ["sh", "-c", "head -c 1000000 /dev/urandom | base64; sleep 1"]
        ran = pretended.run(command, evidence="disk/ev")
        assert "pretended_ongpu" not in ran.err and ran.status != 0, ran.err
        full = "No space left" in ran.err or b"No space left" in (disk / "ev" / "journal.jsonl").read_bytes()
        assert full, "the disk never filled up"
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert pretended.outcome("disk/ev") == "unknown"
    finally:
        subprocess.run(["umount", disk], check=True)


@slow
@pytest.mark.parametrize("what", ["file", "link", "taken", "below-a-file", "read-only"])
def test_a_folder_that_cannot_take_evidence_starts_nothing(pretended: Pretended, what: str) -> None:
    target = pretended.root / "ev"
    match what:
        case "file":
            target.write_text("mine")
        case "link":
            target.symlink_to(pretended.root / "elsewhere")
        case "taken":
            target.mkdir()
            (target / "mine").touch()
        case "below-a-file":
            target.write_text("mine")
            target = target / "ev"
        case _:
            target = Path("/proc/sys/ev")
    ran = pretended.run(["sh", "-c", "touch began"], evidence=str(target))
    assert ran.status == 2 and "Next: " in ran.err
    assert not (pretended.root / "began").exists()


@slow
def test_two_runs_in_one_folder(pretended: Pretended) -> None:
    first = pretended.start(pretended.training(seconds=2))
    pretended.await_lines(3, first)
    second = pretended.run(["sh", "-c", "touch began"])
    assert second.status == 2 and "never written over" in second.err
    assert not (pretended.root / "began").exists()
    _, err = first.communicate(timeout=60)
    assert (first.returncode, pretended.outcome()) == (0, "proven"), err.decode()


@slow
def test_too_few_descriptors(pretended: Pretended) -> None:
    few = pretended.chance.randrange(6, 14)
    ran = pretended.run(pretended.training(), before=["bash", "-c", f'ulimit -n {few}; exec "$@"', "bash"])
    assert ran.status != 0, "it ended well with so few"
    if (pretended.root / "ev" / "journal.jsonl").exists() and pretended.lines():
        assert pretended.outcome() != "proven"


@slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to cover /proc")
def test_an_empty_proc(pretended: Pretended) -> None:
    """Another file system over ``/proc``: who runs below whom cannot be read, and no process is found in the tree."""
    cover = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && touch covered && exec "$@"', "sh"]
    ran = pretended.run(pretended.training(), before=cover)
    if not (pretended.root / "covered").exists():
        pytest.skip("mounting is not allowed here")
    assert ran.status != 0 and "pretended_ongpu" not in ran.err, ran.err
    assert pretended.outcome() != "proven"


# -- 53, 54: clocks and words ----------------------------------------------------------------------------------------


@slow
def test_a_wall_clock_that_jumps_changes_nothing(pretended: Pretended) -> None:
    jump = pretended.chance.choice([-7200, -3600, 3600, 86400])
    ran = pretended.run(pretended.training(), variables={"PRETENDED_JUMP_S": str(jump)})
    walls = [float(str(one["t_wall"])) for one in pretended.records()]
    assert max(walls) - min(walls) > 3000, "the clock never jumped"
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err


@slow
@pytest.mark.parametrize("name", ["emoji \U0001f525", "new\nline", "-dash", "x" * 200, "caf\u00e9"])
def test_odd_folders_in_a_c_locale(pretended: Pretended, name: str) -> None:
    locale = {"LC_ALL": "C", "LANG": "xx_YY", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = pretended.run(pretended.training(), evidence=f"./{name}", variables=locale)
    assert (ran.status, pretended.outcome(name)) == (0, "proven"), ran.err


# -- 55, 56: the sampler ---------------------------------------------------------------------------------------------


def sampler_of(pretended: Pretended) -> int:
    """The pid of the sampler."""
    found = [pid for pid in pretended.orphans() if b"ongpu.guard.sampler" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=slow)])
def test_a_sampler_that_dies_hurts_only_the_proof(pretended: Pretended, number: signal.Signals) -> None:
    running = pretended.start(pretended.training(seconds=1.5))
    pretended.await_lines(10 + pretended.chance.randrange(6), running)
    os.kill(sampler_of(pretended), number)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, pretended.outcome()) == (3, "unknown"), err.decode()
    assert f"signal {int(number)}" in err.decode()


@slow
def test_a_sampler_that_is_held_up_loses_nothing(pretended: Pretended) -> None:
    """Two seconds without a reading, as on a starved machine: a gap is no fault, and what is there is judged."""
    running = pretended.start(pretended.training(seconds=4))
    pretended.await_lines(12, running)
    sampler = sampler_of(pretended)
    os.kill(sampler, signal.SIGSTOP)
    before = pretended.lines()
    time.sleep(2)
    os.kill(sampler, signal.SIGCONT)
    _, err = running.communicate(timeout=60)
    times = [one["data"]["t_mono"] for one in pretended.records() if one["kind"] == "nvml.sample"]  # type: ignore[index]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert before and max(gaps) > 1.9, "it was never held up"
    assert (running.returncode, pretended.outcome()) == (0, "proven"), err.decode()


@slow
def test_a_starved_machine(pretended: Pretended) -> None:
    """Four busy programs for each core."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        ran = pretended.run(pretended.training(seconds=2))
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert (ran.status, pretended.outcome()) in {(0, "proven"), (3, "unknown")}, ran.err


# -- 39: nobody listens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed", [">&- 2>&- <&-", pytest.param(">/dev/full 2>/dev/full", marks=slow), pytest.param(">&-", marks=slow)]
)
def test_streams_that_are_closed_or_full_change_no_verdict(pretended: Pretended, closed: str) -> None:
    ran = pretended.run(pretended.training(), before=["sh", "-c", f'exec "$@" {closed}', "sh"])
    assert ran.out == ""
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err


@slow
def test_a_terminal_that_is_closed_in_the_middle(pretended: Pretended) -> None:
    """The window goes, the run was disowned before: it writes to nobody, and is proven."""
    import pty

    master, slave = pty.openpty()
    quiet = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    running = subprocess.Popen(
        [*quiet, *pretended.argv(pretended.training(seconds=2))],
        cwd=pretended.root,
        env=pretended.variables(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    threading.Thread(target=_drain, args=(master,), daemon=True).start()
    pretended.await_lines(10, running)
    assert running.poll() is None
    os.close(os.dup(master))
    os.kill(running.pid, signal.SIGHUP)
    _close(master)
    assert (running.wait(60), pretended.outcome()) == (0, "proven")


def _drain(master: int) -> None:
    try:
        while os.read(master, 4096):
            pass
    except OSError:
        return


def _close(master: int) -> None:
    """Closing a terminal that a thread reads would wait for the thread: hang up by taking its place."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, master)
    os.close(nowhere)
