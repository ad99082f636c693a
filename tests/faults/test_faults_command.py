"""Faults of the command and of its driver, done to a whole ``ongpu run``: a proof is spoiled or kept, never made up."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ongpu.guard.tree import Member, Watched
from tests.faults.conftest import Pretended
from tests.guard.guard_harness import PYTHON

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="Linux only")]
slow = pytest.mark.slow_fault
# Works on, and is not to be proven by it.
THEN_ON_THE_CPU = "for weight in weights: weight.device = 'cpu'\nstate.unlink()"


def log_of(pretended: Pretended, name: str = "ev") -> str:
    """What the command printed, as the bundle keeps it."""
    return (pretended.root / name / "training_log.txt").read_text("utf-8", "replace")


# -- A: the driver ---------------------------------------------------------------------------------------------------


@slow
def test_no_nvml_library(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training(), variables={"LD_LIBRARY_PATH": ""})
    errors = [one["data"] for one in pretended.records() if one["kind"] == "nvml.error"]
    assert "NVML_ERROR_LIBRARY_NOT_FOUND" in json.dumps(errors)
    assert (ran.status, pretended.outcome()) == (3, "unknown"), ran.err


MODES = {
    "hang": "unknown",
    "segv": "unknown",
    "lost": "unknown",
    "denied": "unknown",
    "outer": "unknown",
    "other": "unknown",
    "hidden": "proven",
    "nolist": "proven",
    "no-energy": "proven",
    "energy-back": "proven",
}


@slow
@pytest.mark.parametrize("mode", MODES)
def test_a_driver_that_fails_at_some_call(pretended: Pretended, mode: str) -> None:
    """From a call on that is drawn, while the training goes on; it is not hurt by it."""
    early = mode in {"hidden", "nolist", "outer", "other"}  # how a platform is, not what happens to it
    after = 0 if early else pretended.chance.randrange(3, 9)
    variables = {"STANDIN_GUARD": mode, "STANDIN_AFTER": str(after)}
    ran = pretended.run(pretended.training(seconds=2), variables=variables)
    assert (pretended.root / "fired").exists(), "it never bit"
    assert pretended.outcome() == MODES[mode], ran.err
    assert ran.status == (0 if MODES[mode] == "proven" else 3), ran.err
    if mode in {"hidden", "nolist"}:
        assert "device-level" in (pretended.root / "ev" / "README.md").read_text()
    exits = [one["data"] for one in pretended.records() if one["kind"] == "child.exit"]
    assert exits[0]["status"] == 0  # type: ignore[index]


@slow
def test_a_run_of_a_fifth_of_a_second(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training(seconds=0.2))
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err


@slow
def test_a_training_that_moves_to_the_cpu_without_a_word(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training("cpu"))
    assert (ran.status, pretended.outcome()) == (1, "refuted") and "silent-cpu" in ran.err, ran.err


@slow
def test_a_context_held_beside_a_training_on_the_cpu(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training("decoy"))
    samples = [one["data"] for one in pretended.records() if one["kind"] == "nvml.sample"]
    assert any(device["processes"] for one in samples for device in one["devices"]), "nothing was held"  # type: ignore[index]
    assert (ran.status, pretended.outcome()) == (1, "refuted"), ran.err


@slow
@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("CUDA error: no kernel image is available for execution on the device", "wheel-no-arch"),
        ("system has unsupported display driver / cuda driver combination (error 803)", "driver-broken"),
    ],
)
def test_the_first_kernel_fails(pretended: Pretended, said: str, cause: str) -> None:
    ran = pretended.run(pretended.training(code=f"raise RuntimeError({said!r})", at=1))
    assert ran.status == 1 and said in log_of(pretended)
    assert cause in (pretended.root / "ev" / "blocked.txt").read_text(), ran.err
    assert pretended.outcome() == "unknown"


@slow
def test_on_the_gpu_in_the_first_steps_only(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training(code=THEN_ON_THE_CPU))
    assert (ran.status, pretended.outcome()) == (1, "refuted"), ran.err


@slow
@pytest.mark.parametrize("then", ["ends", "goes on on the CPU"])
def test_out_of_memory(pretended: Pretended, then: str) -> None:
    error = "raise RuntimeError('CUDA out of memory. Tried to allocate 8.00 GiB')"
    code = error if then == "ends" else f"try: {error}\nexcept RuntimeError as error: print(error)\n{THEN_ON_THE_CPU}"
    pretended.run(pretended.training(code=code))
    assert "CUDA out of memory" in log_of(pretended)
    assert pretended.outcome() == ("unknown" if then == "ends" else "refuted")
    if then == "ends":
        assert "out-of-memory" in (pretended.root / "ev" / "blocked.txt").read_text()


@slow
def test_a_stand_in_for_nvml_proves_nothing_where_no_driver_is(pretended: Pretended) -> None:
    """The command as it is, without the pretended host: only NVML is faked, as mock libraries and preloads do."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a real driver")
    argv = [PYTHON, "-m", "ongpu", *pretended.argv(pretended.training())[2:]]
    done = subprocess.run(argv, cwd=pretended.root, env=pretended.variables(), capture_output=True, check=False)
    assert b"GPU-99999999-2222" in (pretended.root / "ev" / "journal.jsonl").read_bytes(), "nobody asked it"
    assert (done.returncode, pretended.outcome()) == (3, "unknown"), done.stderr.decode()
    assert b"no driver can have answered" in done.stderr.replace(b"\n", b" "), done.stderr.decode()


SMI = {
    "rubbish": "head -c 300000 /dev/urandom",
    "flood": "head -c 50000000 /dev/zero | tr '\\0' 'x'",
    "fails": "echo NVIDIA-SMI has failed; exit 9",
    "hangs": "sleep 60",
    "another tongue": "printf 'Pilote\\351 : \\377\\376 580\\n'",
}


@slow
@pytest.mark.parametrize("how", SMI)
def test_nvidia_smi_is_kept_under_a_cap_and_never_judged(pretended: Pretended, how: str) -> None:
    folder = pretended.root / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ntouch {pretended.root}/asked\n{SMI[how]}\n")
    (folder / "nvidia-smi").chmod(0o755)
    ran = pretended.run(pretended.training(seconds=1.5), variables={"PATH": f"{folder}:{os.environ['PATH']}"})
    assert (pretended.root / "asked").exists()
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err
    assert (pretended.root / "ev" / "nvidia_smi.txt").stat().st_size < 4 << 20


@slow
def test_a_torch_for_another_maker(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training(), variables={"PRETENDED_HIP": "6.2"})
    assert any(one["data"].get("hip") == "6.2" for one in pretended.records() if one["kind"] == "hook")  # type: ignore[attr-defined]
    assert (ran.status, pretended.outcome()) == (3, "unknown"), ran.err
    assert "ROCm" in ran.err


# -- B: the command --------------------------------------------------------------------------------------------------


@slow
def test_an_exception_at_some_step(pretended: Pretended) -> None:
    ran = pretended.run(pretended.training(code="raise ValueError('batch 17 is odd')"))
    assert ran.status == 1 and "ValueError: batch 17 is odd" in log_of(pretended)
    assert "Traceback" in log_of(pretended) and pretended.outcome() == "unknown"


@slow
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGKILL", "SIGFPE"])
def test_a_signal_at_some_step(pretended: Pretended, name: str) -> None:
    ran = pretended.run(pretended.training(code=f"import os, signal; os.kill(os.getpid(), signal.{name})"))
    assert ran.status == 128 + signal.Signals[name]
    assert f'"signal":"{name}"' in (pretended.root / "ev" / "journal.jsonl").read_text()
    assert pretended.outcome() == "unknown"


@slow
def test_a_process_that_holds_the_lock_for_ever_is_killed(pretended: Pretended) -> None:
    """A loop in C with Python's lock held, as a library may have: no handler of the program runs any more."""
    code = "from collections import deque; from itertools import repeat; print('deep', flush=True); deque(repeat(0), 0)"
    running = pretended.start(pretended.training(code=code, seconds=20))
    log, deadline = pretended.root / "ev" / "training_log.txt", time.monotonic() + 30
    while not (log.exists() and b"deep" in log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    for _ in range(3):  # who insists need not wait for the grace
        running.send_signal(signal.SIGINT)
        time.sleep(0.1)
    running.communicate(timeout=60)
    assert '"signal":"SIGKILL"' in (pretended.root / "ev" / "journal.jsonl").read_text()
    assert pretended.outcome() == "unknown"


@slow
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_stopped_command(pretended: Pretended, *, goes_on: bool) -> None:
    running = pretended.start(pretended.training(seconds=3, code="print('here', os.getpid(), flush=True)"))
    log, deadline = pretended.root / "ev" / "training_log.txt", time.monotonic() + 30
    while not (log.exists() and b"here" in log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(log.read_text().split("here ")[1].split()[0])
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    if goes_on:
        os.kill(pid, signal.SIGCONT)
    else:
        for _ in range(3):
            running.send_signal(signal.SIGTERM)
            time.sleep(0.1)
    running.communicate(timeout=60)
    assert pretended.outcome() == ("proven" if goes_on else "unknown")


@slow
def test_a_command_that_ignores_all_it_can(pretended: Pretended) -> None:
    code = (
        "import signal\nfor one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):"
        " signal.signal(one, signal.SIG_IGN)\nprint('deaf', flush=True)"
    )
    running = pretended.start(pretended.training(seconds=50, code=code))
    log, deadline = pretended.root / "ev" / "training_log.txt", time.monotonic() + 30
    while not (log.exists() and b"deaf" in log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(3):
        running.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    running.communicate(timeout=60)
    assert '"signal":"SIGKILL"' in (pretended.root / "ev" / "journal.jsonl").read_text()
    assert pretended.outcome() == "unknown"


ESCAPES = {
    "daemon": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: os.execv(sys.executable, SLEEP)\n os._exit(0)",
    "own session": "import subprocess; subprocess.Popen(SLEEP, start_new_session=True)",
    "disowned by a shell": "os.system('nohup sleep 300 >/dev/null 2>&1 & disown 2>/dev/null; true')",
    "without our marks": "import subprocess; subprocess.Popen(SLEEP, start_new_session=True,"
    " env={'PRETENDED_MARK': os.environ['PRETENDED_MARK']})",
}


@slow
@pytest.mark.parametrize("how", ESCAPES)
def test_what_leaves_the_tree_is_ended_with_the_run(pretended: Pretended, how: str) -> None:
    """Each holds the pipe as well. That none is alive afterwards is asked after every test here."""
    code = f"SLEEP = [sys.executable, '-c', 'import time; time.sleep(300)']\n{ESCAPES[how]}\nprint('gone', flush=True)"
    ran = pretended.run(pretended.training(seconds=1.5, code=code))
    assert "gone" in ran.out
    (ended,) = (one["data"] for one in pretended.records() if one["kind"] == "guard.end")
    assert ended["left_behind"] >= 1  # type: ignore[index]
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err


@slow
def test_two_hundred_children_and_fifty_zombies(pretended: Pretended) -> None:
    code = (
        "for n in range(200):\n if os.fork() == 0: time.sleep(300); os._exit(0)\n"
        "for n in range(50):\n if os.fork() == 0: os._exit(0)\nprint('forked', flush=True)"
    )
    ran = pretended.run(pretended.training(seconds=1.5, code=code))
    assert "forked" in ran.out
    (ended,) = (one["data"] for one in pretended.records() if one["kind"] == "guard.end")
    assert ended["left_behind"] >= 200  # type: ignore[index]
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err


@slow
@pytest.mark.parametrize(("other", "outcome"), [("cpu", "refuted"), ("dies", "unknown"), ("silent", "unknown")])
def test_one_of_two_ranks(pretended: Pretended, other: str, outcome: str) -> None:
    """As a launcher starts them, but for the launcher: its status is that of the first."""
    second = {
        "cpu": pretended.training("cpu", seconds=1.5),
        "dies": pretended.training(seconds=1.5, code="print('dead', flush=True); os.kill(os.getpid(), 9)"),
        "silent": ["sleep", "1"],
    }[other]
    script = pretended.root / "ranks.sh"
    script.write_text(
        f"RANK=1 WORLD_SIZE=2 STANDIN_STATE={pretended.root}/state1 {_quoted(second)} &\n"
        f"RANK=0 WORLD_SIZE=2 {_quoted(pretended.training(seconds=1.5))}\nstatus=$?\nwait\nexit $status\n"
    )
    pretended.run(["sh", str(script)])
    assert pretended.outcome() == outcome
    if other == "cpu":
        assert "rank 1" in (pretended.root / "ev" / "README.md").read_text()


def _quoted(words: list[str]) -> str:
    return shlex.join(words)


@slow
def test_bytes_of_any_kind_pass_and_are_kept(pretended: Pretended) -> None:
    data = pretended.chance.randbytes(200_000) + b"\0\xff\xfe\r 50%\r100%\x1b]0;title\x07\x1b[2J no newline at the end"
    (pretended.root / "data").write_bytes(data)
    code = "sys.stdout.buffer.write(open('data', 'rb').read()); sys.stdout.flush()"
    argv = pretended.argv(pretended.training(code=code))
    done = subprocess.run(argv, cwd=pretended.root, env=pretended.variables(), capture_output=True, check=False)
    assert data in done.stdout
    assert data in (pretended.root / "ev" / "training_log.txt").read_bytes()
    assert (done.returncode, pretended.outcome()) == (0, "proven"), done.stderr.decode()


@slow
def test_a_flood_of_output_in_one_line(pretended: Pretended) -> None:
    code = (
        "import subprocess; subprocess.run('head -c 600000000 /dev/zero | tr \"\\\\0\" x', shell=True); print('whole')"
    )
    argv = pretended.argv(pretended.training(seconds=0.3, code=code, at=3))
    with (pretended.root / "out").open("wb") as out:
        done = subprocess.run(
            ["sh", "-c", '"$@" | tail -c 100', "sh", *argv],
            cwd=pretended.root,
            env=pretended.variables(),
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )
    (ended,) = (one["data"] for one in pretended.records() if one["kind"] == "guard.end")
    assert ended["log_bytes"] > 600_000_000 and ended["log_dropped_bytes"] > 0, done.stderr.decode()  # type: ignore[index]
    assert (pretended.root / "ev" / "training_log.txt").stat().st_size < 64 << 20
    assert pretended.outcome() == "proven", done.stderr.decode()


@slow
def test_printed_records_are_output(pretended: Pretended) -> None:
    forged = json.dumps({"record": "step", "n": 0, "pid": 1, "parameters": {"cuda:0": 1}, "verdict": "proven"})
    code = f"print({forged!r}); print('Using device: cuda'); print(':::MLLOG {{}}')"
    ran = pretended.run(pretended.training("cpu", code=code))
    assert forged in log_of(pretended)
    assert (ran.status, pretended.outcome()) == (1, "refuted"), ran.err


@slow
@pytest.mark.parametrize("what", ["kills the supervisor", "removes the folder", "writes the journal", "plants a link"])
def test_a_command_that_turns_on_its_evidence(pretended: Pretended, what: str) -> None:
    code = {
        "kills the supervisor": "os.kill(os.getppid(), 9)",
        "removes the folder": "import shutil; shutil.rmtree('ev'); print('did', flush=True)",
        "writes the journal": "open('ev/journal.jsonl', 'a').write('{}\\n'); print('did', flush=True)",
        "plants a link": "os.symlink('/etc/passwd', 'ev/notes.txt'); print('did', flush=True)",
    }[what]
    ran = pretended.run(pretended.training(code=f"open('did', 'w').close()\n{code}"))
    assert (pretended.root / "did").exists()
    assert ran.status != 0 and "pretended_ongpu" not in ran.err, ran.err
    if what == "kills the supervisor":
        assert pretended.outcome() == "unknown"
    elif what == "removes the folder":
        assert not (pretended.root / "ev" / "manifest.json").exists()
    else:
        assert not (pretended.root / "ev" / "manifest.json").exists() and "Next: " in ran.err, ran.err


@slow
def test_a_command_that_changes_itself_changes_nothing_of_ours(pretended: Pretended) -> None:
    code = "os.nice(19); os.sched_setaffinity(0, {0}); os.umask(0o777); os.chdir('/'); print('changed', flush=True)"
    ran = pretended.run(pretended.training(code=code))
    assert "changed" in ran.out
    assert (ran.status, pretended.outcome()) == (0, "proven"), ran.err
    assert (pretended.root / "ev").stat().st_mode & 0o777 == 0o700


def test_a_number_that_another_process_has_now(pretended: Pretended) -> None:
    """A member's pid, free again and taken by a stranger: told apart by the start."""
    watched = Watched(root=100, reaper=99)

    def one(pid: int, ppid: int, start: float) -> Member:
        return Member(pid=pid, ppid=ppid, start_time=start)

    first = {100: one(100, 99, 1.0), 101: one(101, 100, 2.0)}
    assert [member.pid for member in watched.look(first)] == [100, 101]
    again = pretended.chance.uniform(3, 9)
    assert watched.look({100: one(100, 99, 1.0), 101: one(101, 1, again)}) == [first[100]]
    assert watched.look({100: one(100, 1, again)}) == []


@slow
def test_a_command_that_ends_well_without_a_step(pretended: Pretended) -> None:
    ran = pretended.run([PYTHON, "-c", "import torch; print('Using device: cuda'); print('done')"])
    assert (ran.status, pretended.outcome()) == (3, "unknown"), ran.err


# -- F: a checkpoint that bites ---------------------------------------------------------------------------------------


@slow
def test_a_pickle_in_a_bundle_is_never_opened(pretended: Pretended) -> None:
    """A program leaves a checkpoint in the folder whose unpickling would write a file; checking and showing do not."""
    evil = (
        "import pickle\nclass Evil:\n def __reduce__(self): return (open, ('bitten', 'w'))\n"
        "pickle.dump(Evil(), open('ev/model.pt', 'wb'))\nprint('left', flush=True)"
    )
    ran = pretended.run(pretended.training(code=evil))
    assert "left" in ran.out and (pretended.root / "ev" / "model.pt").exists()
    for words in (["evidence", "check", "ev"], ["evidence", "show", "ev"], ["report", "ev"], ["diagnose", "ev"]):
        argv = [PYTHON, "-m", "ongpu", *words]
        subprocess.run(argv, cwd=pretended.root, env=pretended.variables(), capture_output=True, check=False)
    assert not (pretended.root / "bitten").exists()
    assert pretended.outcome() == "proven"
