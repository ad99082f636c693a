"""The session: bytes untouched, status handed on, signals forwarded, nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ongpu.errors import UsageError
from ongpu.guard.session import run_guarded
from tests.guard.guard_harness import NO_NVML, PYTHON, Guarded, Memory, prove, script, settings

pytestmark = pytest.mark.process
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def python(text: str, **changes: Any) -> Guarded:
    return prove([PYTHON, "-c", text], **changes)


def test_the_status_is_handed_on() -> None:
    assert python("raise SystemExit(7)").result.status == 7


def test_a_signal_has_its_name() -> None:
    result = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").result
    assert (result.status, result.signal) == (139, "SIGSEGV")


def test_bytes_pass_untouched_and_are_kept(tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000 + b"\r 50%\r100%\x1b[0m no newline at the end"
    (tmp_path / "data").write_bytes(data)
    console, log = io.BytesIO(), tmp_path / "log.txt"
    text = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    guarded = prove([PYTHON, "-c", text, str(tmp_path / "data")], console=console, log_path=log)
    assert console.getvalue() == data == log.read_bytes()
    assert guarded.result.log_bytes == len(data)


def test_both_pipes_are_read_at_once() -> None:
    text = "import sys; sys.stderr.write('e' * 300_000); sys.stderr.flush(); sys.stdout.write('o' * 300_000)"
    console = io.BytesIO()
    assert python(text, console=console).result.status == 0
    assert sorted(console.getvalue()) == sorted(b"e" * 300_000 + b"o" * 300_000)


@linux
def test_a_terminal_gives_the_child_a_terminal() -> None:
    import pty

    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(master, 1000)
            except OSError:
                return
            if not data:
                return
            seen.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(slave, "wb", buffering=0) as console:
        text = "import sys; print(sys.stdout.isatty(), sys.stderr.isatty())"
        assert python(text, console=console).result.status == 0
    reader.join(2)
    os.close(master)
    assert bytes(seen).startswith(b"True True")


def test_a_command_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    memory = Memory()
    with pytest.raises(UsageError, match="cannot be run"):
        run_guarded([str(tmp_path / "nothing")], settings=settings(), recorder=memory)
    assert memory.of("child.start") == []
    with pytest.raises(UsageError, match="no command"):
        run_guarded([], settings=settings(), recorder=memory)
    with pytest.raises(UsageError, match="does not exist"):
        run_guarded([PYTHON, "-V"], settings=settings(cwd=tmp_path / "gone"), recorder=memory)


def test_a_command_that_cannot_start_leaves_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(UsageError):
        prove([str(tmp_path / "nothing")], log_path=log)
    assert not log.exists()


def test_a_log_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("evidence")
    with pytest.raises(UsageError, match="cannot be created"):
        python("print(1)", log_path=log)
    assert log.read_text() == "evidence"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_log_not_the_run(tmp_path: Path) -> None:
    from ongpu.guard.output import Keep

    keep = Keep(None)
    keep._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the door itself, broken
    keep.add(b"x" * 100)
    keep.close()
    assert keep.error is not None and "No space left" in keep.error
    assert keep.total_bytes == 100


def test_a_long_log_keeps_head_and_tail(tmp_path: Path) -> None:
    from ongpu.guard.output import Keep

    keep = Keep(tmp_path / "log", head_bytes=10, tail_bytes=4)
    for _ in range(20):
        keep.add(b"0123456789")
    keep.add(b"LAST")
    keep.close()
    assert (tmp_path / "log").read_bytes() == b"0123456789\n[ongpu: 190 bytes left out here]\nLAST"
    assert keep.total_bytes == 204 and keep.dropped_bytes == 190


@linux
@pytest.mark.parametrize(
    "start",
    [
        "subprocess.Popen(sleeper)",
        "subprocess.Popen(sleeper, start_new_session=True)",
        "os.fork() or (os.setsid(), os.fork() or os.execv(sys.executable, sleeper), os._exit(0))",
    ],
    ids=["child", "own-session", "double-fork"],
)
def test_nothing_is_left_behind(tmp_path: Path, start: str) -> None:
    note = tmp_path / "pid"
    text = f"""
import os, subprocess, sys, time
sleeper = [sys.executable, "-c", "import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"]
{start}
while not os.path.exists({str(note)!r}) or not open({str(note)!r}).read():
    time.sleep(0.02)
"""
    began = time.monotonic()
    guarded = python(text)
    assert time.monotonic() - began < 20
    assert guarded.result.status == 0
    assert guarded.result.left_behind >= 1
    assert not alive(int(note.read_text()))


@linux
def test_other_children_of_ours_are_left_alone() -> None:
    """One that was there before, and one begun while the command ran (as ``nvidia-smi`` is)."""
    import subprocess

    mine = [subprocess.Popen([PYTHON, "-c", "import time; time.sleep(60)"])]

    def begin() -> None:
        mine.append(subprocess.Popen([PYTHON, "-c", "import time; time.sleep(60)"], start_new_session=True))

    timer = threading.Timer(0.8, begin)
    timer.start()
    try:
        guarded = python("import time; time.sleep(1.5)")
        assert len(mine) == 2 and guarded.result.left_behind == 0
        assert [one.poll() for one in mine] == [None, None]
    finally:
        timer.join()
        for one in mine:
            one.kill()
            one.wait()


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    text = f"""
import signal, sys, time
def leave(number, frame):
    print("got", number); sys.exit(5)
signal.signal({int(number)}, leave)
open({str(ready)!r}, "w").close()
time.sleep(60)
"""
    before = signal.getsignal(number)

    def send() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    console = io.BytesIO()
    result = python(text, console=console).result
    assert result.status == 5 and result.interrupted
    assert console.getvalue() == b"got %d\n" % number
    assert signal.getsignal(number) is before


@linux
def test_a_command_that_ignores_signals_is_killed_after_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    text = f"""
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open({str(ready)!r}, "w").close()
time.sleep(60)
"""

    def send() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    result = python(text, grace_s=0.5).result
    assert result.signal == "SIGKILL" and result.interrupted and result.seconds < 20


def test_a_timeout_stops_it() -> None:
    result = python("import time; time.sleep(60)", timeout_s=0.5).result
    assert result.stopped == "timeout" and result.seconds < 15


def test_fail_fast_stops_a_command_that_nothing_speaks_for() -> None:
    guarded = python("import time; time.sleep(60)", fail_fast_s=0.5)
    assert guarded.result.stopped == "fail-fast"
    assert guarded.memory.of("child.exit")[0]["stopped_reason"].startswith("after 0.5 s no optimizer step")
    assert str(guarded.verdict.outcome) == "unknown"


@linux
def test_the_whole_tree_dies_with_the_supervisor(tmp_path: Path) -> None:
    import subprocess

    notes = [tmp_path / "child", tmp_path / "grandchild"]
    grandchild = f"import os, time; open({str(notes[1])!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    child = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {grandchild!r}], start_new_session=True)
while not os.path.exists({str(notes[1])!r}): time.sleep(0.02)
time.sleep(0.5)  # the sampler has seen it
open({str(notes[0])!r}, 'w').write(str(os.getpid()))
time.sleep(60)
"""
    text = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.guard.guard_harness import PYTHON, prove
prove([PYTHON, "-c", {child!r}], scratch=Path({str(tmp_path)!r}))
"""
    with subprocess.Popen([PYTHON, script(tmp_path, text)]) as supervisor:
        deadline = time.monotonic() + 60
        while not (notes[0].exists() and notes[0].read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        supervisor.kill()
    pids = [int(note.read_text()) for note in notes]
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [alive(pid) for pid in pids] == [False, False]


def test_the_sampler_may_die() -> None:
    guarded = python("import time; time.sleep(0.3)", sampler_command=(PYTHON, "-c", "import os; os._exit(9)"))
    assert guarded.result.status == 0
    assert guarded.result.sampler_error == "the sampler ended with status 9"
    assert str(guarded.witness("W2").state) == "error"


def test_the_sampler_may_die_by_a_signal_in_the_middle() -> None:
    text = """
import json, os, sys, time
line = {"kind": "baseline", "n": 0, "t_mono": time.monotonic(), "kernel_mode": None, "devices": []}
print(json.dumps(line), flush=True)
sys.stdin.readline(); os.kill(os.getpid(), 11)
"""
    guarded = python("import time; time.sleep(0.5)", sampler_command=(PYTHON, "-c", text))
    assert guarded.result.status == 0
    assert guarded.result.sampler_error == "the sampler ended with signal 11"


def test_the_sampler_may_hang() -> None:
    guarded = python("import time; time.sleep(0.3)", sampler_command=NO_NVML, sampler_patience_s=0.3)
    assert guarded.result.status == 0
    assert guarded.result.sampler_error == "the sampler gave no baseline in time"


def test_a_reader_that_leaves_does_not_stop_the_run(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with os.fdopen(write_fd, "wb", buffering=0) as console:
        log = tmp_path / "log"
        guarded = python("for i in range(100): print(i)", console=console, log_path=log)
    assert guarded.result.status == 0
    assert log.read_bytes().count(b"\n") == 100


def test_forged_records_in_the_output_are_output(tmp_path: Path) -> None:
    text = """print('{"record": "step", "n": 0, "pid": 1, "parameters": {"cuda:0": 1}}\\nUsing device: cuda')"""
    guarded = python(text)
    assert not guarded.result.hook_seen
    assert str(guarded.verdict.outcome) == "unknown"


def test_rubbish_in_the_hook_folder_is_counted_not_believed(tmp_path: Path) -> None:
    text = """
import os
folder = os.environ["ONGPU_HOOK_DIR"]
with open(os.path.join(folder, "mine.jsonl"), "wb") as out:
    out.write(b'{"record": "step"}\\n\\xff\\xfe\\n[1]\\n{"record": "end", "n": NaN}\\n{"record":"end","n":1e999}\\n')
    out.write(b'{"record": "torch", "n": 99999999999999999999}\\n' + b'[' * 100000 + b'\\n')
os.symlink("/etc/passwd", os.path.join(folder, "link.jsonl"))
"""
    guarded = python(text)
    assert str(guarded.verdict.outcome) == "unknown"
    assert str(guarded.witness("W1").state) == "error"
    assert [one["record"] for one in guarded.memory.of("hook")] == ["step"] + ["malformed"] * 6
