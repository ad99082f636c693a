"""The process door, with real children."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ongpu.errors import DoorError
from ongpu.machine.process import RealProcesses

pytestmark = pytest.mark.process
DOOR = RealProcesses(term_grace_s=1.0, drain_s=0.5)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def wait_gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_status_output_and_pid() -> None:
    pids: list[int] = []
    done = DOOR.run(
        python("import os,sys; print(os.getpid()); sys.stderr.write('e'); sys.exit(7)"),
        timeout_s=30,
        on_start=pids.append,
    )
    assert (done.status, done.stdout.split(), done.stderr) == (7, [str(pids[0]).encode()], b"e")
    assert not done.timed_out
    assert done.dropped_bytes == 0


def test_a_flood_on_both_pipes_hangs_nobody() -> None:
    seen: list[int] = []
    code = "import sys\nfor i in range(30):\n sys.stderr.write('x'*100_000); sys.stdout.write('y'*50_000)"
    done = DOOR.run(python(code), timeout_s=60, on_output=lambda chunk: seen.append(len(chunk)))
    assert (len(done.stderr), len(done.stdout), sum(seen)) == (3_000_000, 1_500_000, 4_500_000)


def test_standard_input_is_empty() -> None:
    assert DOOR.run(python("import sys; print(repr(sys.stdin.read()))"), timeout_s=30).stdout.strip() == b"''"


def test_a_timeout_kills_the_whole_tree() -> None:
    code = (
        "import subprocess,sys,time,signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "deaf = 'import time,signal; signal.signal(15, 1); print(1, flush=True); time.sleep(300)'\n"
        "p = subprocess.Popen([sys.executable, '-c', deaf])\n"
        "print('grandchild', p.pid, flush=True); time.sleep(300)"
    )
    done = DOOR.run(python(code), timeout_s=1.5)
    assert done.timed_out
    assert done.status == -signal.SIGKILL
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(b"grandchild")]
    assert wait_gone(int(found[0]))


def test_a_descendant_that_left_the_session_is_killed_with_the_tree() -> None:
    code = (
        "import subprocess,sys,time\n"
        "p = subprocess.Popen([sys.executable,'-c','import time;time.sleep(300)'], start_new_session=True)\n"
        "print(p.pid, flush=True); time.sleep(300)"
    )
    done = DOOR.run(python(code), timeout_s=1.5)
    assert done.timed_out
    assert wait_gone(int(done.stdout))


def test_a_grandchild_that_holds_the_pipe_does_not_hang_the_caller_and_is_ended() -> None:
    code = (
        "import subprocess,sys\n"
        "p = subprocess.Popen([sys.executable,'-c','import time;time.sleep(300)'])\n"
        "print(p.pid, flush=True)"
    )
    done = DOOR.run(python(code), timeout_s=60)
    assert (done.status, done.timed_out) == (0, False)
    assert wait_gone(int(done.stdout))


def test_an_orphan_outside_the_group_that_holds_the_pipe_does_not_hang_the_caller() -> None:
    code = (
        "import subprocess,sys\n"
        "p = subprocess.Popen([sys.executable,'-c','import time;time.sleep(300)'], start_new_session=True)\n"
        "print(p.pid, flush=True)"
    )
    done = DOOR.run(python(code), timeout_s=60)
    try:
        assert done.status == 0
        left = [one for one in threading.enumerate() if one.name == "ongpu-pipe"]
        assert not left, "the thread of a pipe was left behind"
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_an_interrupt_ends_the_tree_and_is_raised() -> None:
    pids: list[int] = []

    def interrupt(pid: int) -> None:
        pids.append(pid)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()

    with pytest.raises(KeyboardInterrupt):
        DOOR.run(python("import time; time.sleep(300)"), timeout_s=None, on_start=interrupt)
    assert wait_gone(pids[0])


def test_all_children_can_be_ended_from_another_thread() -> None:
    door = RealProcesses(term_grace_s=1.0)
    pids: list[int] = []
    errors: list[str] = []

    def wait() -> None:
        try:
            door.run(python("import time; time.sleep(300)"), timeout_s=None, on_start=pids.append)
        except DoorError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(pids) < 3:
        time.sleep(0.01)
    door.end_all()
    for thread in threads:
        thread.join(30)
    assert errors == ["interrupted"] * 3
    assert all(map(wait_gone, pids))
    assert door.run(python("print(1)"), timeout_s=30).status == 0, "what is started later is not touched"


def test_what_a_callback_raises_ends_the_child_and_reaches_the_caller() -> None:
    pids: list[int] = []

    def refuse(chunk: bytes) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        DOOR.run(
            python("import time; print(1, flush=True); time.sleep(300)"),
            timeout_s=60,
            on_output=refuse,
            on_start=pids.append,
        )
    assert wait_gone(pids[0])


def test_an_executable_that_is_missing_or_is_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for argv, code in (
        ((str(tmp_path / "missing"),), "not-found"),
        ((str(plain),), "not-executable"),
        ((str(tmp_path),), "not-executable"),
        ((), "bad-argument"),
        ((sys.executable, "a\0b"), "bad-argument"),
    ):
        with pytest.raises(DoorError) as caught:
            DOOR.run(argv, timeout_s=5)
        assert (caught.value.door, caught.value.code) == ("process", code)
    with pytest.raises(DoorError) as caught:
        DOOR.run((sys.executable,), timeout_s=5, cwd=tmp_path / "missing")
    assert caught.value.code == "bad-directory"


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    done = DOOR.run(
        python("import os; print(os.environ.get('A'), os.environ.get('HOME'), os.getcwd())"),
        timeout_s=30,
        env={"A": "1"},
        cwd=tmp_path,
    )
    assert done.stdout.split() == [b"1", b"None", str(tmp_path).encode()]


def test_a_child_that_was_started_ahead_is_the_one_that_is_led() -> None:
    door = RealProcesses(term_grace_s=1.0, drain_s=0.5)
    words = python("import os; print(os.getpid(), os.environ.get('X'))")
    door.start_ahead(words, env={"X": "1"})
    pids: list[int] = []
    other = door.run(words, timeout_s=30, env={"X": "2"}, on_start=pids.append)
    led = door.run(words, timeout_s=30, env={"X": "1"}, on_start=pids.append)
    again = door.run(words, timeout_s=30, env={"X": "1"}, on_start=pids.append)
    assert [one.stdout.split() for one in (other, led, again)] == [
        [str(pid).encode(), value] for pid, value in zip(pids, (b"2", b"1", b"1"), strict=True)
    ]
    assert pids[1] < pids[0] < pids[2] or len(set(pids)) == 3  # numbers may come round again


def test_a_child_that_was_started_ahead_and_never_asked_for_is_ended() -> None:
    door = RealProcesses(term_grace_s=1.0, drain_s=0.5)
    before = set(psutil.Process().children())
    door.start_ahead(python("import time; time.sleep(600)"), env={})
    door.start_ahead(("/nowhere/at/all",), env={})
    (left,) = set(psutil.Process().children()) - before
    door.end_ahead()
    door.end_ahead()
    assert not left.is_running()


def test_a_limit_holds_for_a_child_that_was_started_ahead() -> None:
    door = RealProcesses(term_grace_s=0.5, drain_s=0.5)
    words = python("import time; time.sleep(600)")
    door.start_ahead(words, env={})
    assert door.run(words, timeout_s=0.3, env={}).timed_out
