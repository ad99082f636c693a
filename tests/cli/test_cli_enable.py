"""``ongpu enable`` as a new user types it: the blocked machine, the rehearsal, bad input, interrupts, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.cli_harness import environment, ongpu

pytestmark = pytest.mark.process
REHEARSE = ["enable", "--rehearse", "rtx5090-linux", "--python", sys.executable, "--evidence", "ev"]


def ends(bundle: Path) -> list[str]:
    lines = (json.loads(line) for line in (bundle / "journal.jsonl").read_text("utf-8").splitlines())
    return [line["data"]["end"] for line in lines if line["kind"] == "run.end"]


def checked(cwd: Path, bundle: str = "ev") -> tuple[int, str]:
    ran = ongpu(["evidence", "check", bundle, "--json"], cwd=cwd)
    return ran.status, str(ran.document()["answer"])


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_strict_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    ran = ongpu(["enable", "--json"], cwd=tmp_path)
    assert ran.status == 3
    document = ran.document()
    assert (document["cause"], document["blocked_in"], document["outcome"]) == ("no-gpu-visible", "probe", "unknown")
    bundle = tmp_path / "ongpu_runs" / "enable"
    assert {path.name for path in bundle.iterdir()} >= {"blocked.txt", "manifest.json", "README.md", "env_info.txt"}
    assert not (bundle / "training_log.txt").exists()
    assert checked(tmp_path, str(bundle)) == (0, "accepted")


@pytest.mark.timeout(420)  # it trains for real, and machines that run tests are shared
def test_the_whole_rehearsal_trains_on_the_cpu_and_proves_nothing(tmp_path: Path) -> None:
    ran = ongpu([*REHEARSE, "--json"], cwd=tmp_path, timeout_s=400)
    assert ran.status == 0, ran.err
    document = ran.document()
    assert (document["rehearsed"], document["outcome"], document["blocked_in"]) == (True, "unknown", None)
    assert [phase["name"] for phase in document["phases"]] == [
        "probe", "plan", "install", "scan", "smoke", "train", "compare", "evidence",
    ]  # fmt: skip
    assert "50 steps" in next(phase["summary"] for phase in document["phases"] if phase["name"] == "train")
    assert {claim["outcome"] for claim in document["verdict"]["claims"]} == {"unknown"}
    pages = [path for path in (tmp_path / "ev").iterdir() if path.suffix in {".txt", ".md"}]
    assert {path.name for path in pages} >= {"README.md", "env_info.txt", "torch_cuda_check.txt", "training_log.txt"}
    for page in pages:
        assert page.read_text("utf-8").startswith("REHEARSED"), page
    assert "nvidia_smi.txt" not in {path.name for path in pages}
    assert checked(tmp_path) == (3, "insufficient")
    assert {path.name for path in (tmp_path / "output" / "rehearsal").iterdir()} >= {"model.safetensors", "config.json"}
    # A second one takes folders of its own.
    again = ongpu([*REHEARSE[:-2], "--", "true"], cwd=tmp_path)
    assert again.status == 0, again.err
    assert (tmp_path / "ongpu_runs" / "enable" / "manifest.json").is_file()


def test_a_command_that_fails_is_a_block_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; print('x' * 10_000_000); print('the last words'); sys.exit(7)"
    ran = ongpu([*REHEARSE, "--", sys.executable, "-c", code], cwd=tmp_path, variables={"COLUMNS": ""})
    assert ran.status == 3
    assert "exit status 7" in ran.out and "| the last words" in ran.out
    assert "training_log.txt" in ran.out.splitlines()[-1] and ran.out.splitlines()[-1].startswith("Next: ")
    assert len(ran.out) < 10_000
    assert checked(tmp_path) == (3, "insufficient")


def test_the_error_of_the_reference_training_is_told_as_it_told_it(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    ran = ongpu(REHEARSE, cwd=tmp_path, variables={"COLUMNS": ""})
    assert ran.status == 3
    said = ran.out.splitlines()
    assert any(line.startswith("  | error: ") and "output" in line for line in said), ran.out
    assert said[-1].startswith("Next: ") and "--output" in said[-1]
    assert "silent-cpu" not in ran.out


BAD = [
    (["--rehearse", "no-such-machine"], "no described machine"),
    (["--rehearse", "rtx5090-linux"], "No Python environment"),
    (["--rehearse", "machine.json", "--python", sys.executable], "not a machine document"),
    (["--python", "no-such-python"], "There is no Python"),
    (["--project", "empty"], "neither pyproject.toml nor setup.py"),
    (["--project", "project", "--extra", "nope"], "has no extra 'nope'"),
    (["--extra", "training"], "no project was given"),
    (["--project", "torn"], "is not TOML"),
    (["--torch", "???"], "no torch requirement"),
    (["--expect-gpu", ""], "--expect-gpu is empty"),
    (["--device", "gpu"], "No such option: --device"),
    (["--evidence", "full"], "not empty"),
    (["--evidence", "file"], "not a folder"),
    (["--evidence", "link"], "symbolic link"),
    (["--evidence", "file/below"], "Not a directory"),
    (["--evidence", "/proc/ev"], "cannot take evidence"),
    (["--", "./no-such-command"], "no command that can be started"),
    (["--", "./file"], "may not be executed"),
    (["--", "./full"], "is a folder"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message_with_a_next_step(words: list[str], message: str, tmp_path: Path) -> None:
    for folder in ("empty", "full", "project", "torn"):
        (tmp_path / folder).mkdir()
    for file in ("file", "full/file"):
        (tmp_path / file).touch()
    (tmp_path / "machine.json").write_text("{}")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "0"\n')
    (tmp_path / "torn" / "pyproject.toml").write_text("[project\n")
    before = sorted(tmp_path.rglob("*"))
    ran = ongpu(["enable", "--json", *words], cwd=tmp_path)
    assert ran.status == 2, ran.out + ran.err
    lines = ran.err.splitlines()
    assert message in lines[0] and lines[0].startswith("ongpu enable: ")
    assert lines[-1].startswith("Next: ") and len(lines) == 2, ran.err
    error = ran.document()["error"]
    assert (error["exit_status"], f"Next: {error['next_step']}") == (2, lines[-1])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_that_leaves_ends_what_is_shown_not_the_training(tmp_path: Path) -> None:
    code = "import time, pathlib; time.sleep(0.5); pathlib.Path('trained').touch()"
    argv = [sys.executable, "-m", "ongpu", *REHEARSE, "--", sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stdout is not None and it.stderr is not None
        assert it.stdout.readline() == b"[probe]\n"
        it.stdout.close()
        err = it.stderr.read()
    assert (it.returncode, err) == (0, b"")
    assert (tmp_path / "trained").exists() and ends(tmp_path / "ev") == ["completed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_an_interrupt_ends_the_training_and_seals(number: signal.Signals, tmp_path: Path) -> None:
    code = "import time, pathlib, os; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    argv = [sys.executable, "-m", "ongpu", *REHEARSE, "--", sys.executable, "-c", code]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as it:
        deadline = time.monotonic() + 90
        while not (tmp_path / "pid").exists() and it.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        it.send_signal(number)
        _, err = it.communicate(timeout=60)
    assert it.returncode == 130, err
    assert "Interrupted in phase train." in err.decode() and "Traceback" not in err.decode()
    assert ends(tmp_path / "ev") == ["interrupted"]
    assert checked(tmp_path) == (3, "insufficient")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_killed_run_is_recovered_and_never_written_over(tmp_path: Path) -> None:
    code = "import time, pathlib; pathlib.Path('began').touch(); time.sleep(60)"
    argv = [sys.executable, "-m", "ongpu", *REHEARSE, "--", sys.executable, "-c", code]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as it:
        while not (tmp_path / "began").exists() and it.poll() is None:
            time.sleep(0.05)
        it.kill()
    taken = ongpu([*REHEARSE, "--", "true"], cwd=tmp_path)
    assert taken.status == 2 and "never written over" in taken.err
    assert ongpu(["evidence", "check", "ev"], cwd=tmp_path).status == 1
    assert ongpu(["evidence", "recover", "ev"], cwd=tmp_path).status == 0
    assert checked(tmp_path)[0] == 3


def limited(file_kib: int, cwd: Path) -> tuple[int, str]:
    """A rehearsal where no file may grow beyond that: what a disk that fills up is to a program."""
    script = f"ulimit -f {file_kib}; exec {sys.executable} -m ongpu {' '.join(REHEARSE)} -- true"
    done = subprocess.run(["bash", "-c", script], cwd=cwd, env=environment(), capture_output=True, check=False)
    err = done.stderr.decode()
    assert "Traceback" not in err and err.splitlines()[-1].startswith("Next: "), err
    return done.returncode, err


def test_a_disk_that_fills_up_is_told_and_the_bundle_sealed(tmp_path: Path) -> None:
    status, err = limited(40, tmp_path)
    assert status == 1 and "journal.jsonl cannot be written: File too large" in err
    assert ends(tmp_path / "ev") == ["failed"]
    assert checked(tmp_path) == (3, "insufficient")


def test_where_not_even_the_seal_fits_it_can_be_recovered(tmp_path: Path) -> None:
    status, err = limited(2, tmp_path)
    assert status == 1 and "cannot be written: File too large" in err
    assert not (tmp_path / "ev" / "manifest.json").exists()
    assert ongpu(["evidence", "recover", "ev"], cwd=tmp_path).status == 0
    assert checked(tmp_path) == (3, "insufficient")


@pytest.mark.parametrize("cut_before", ["files", "run.end"])
def test_a_blocked_run_that_was_cut_off_has_its_folder_when_recovered(tmp_path: Path, cut_before: str) -> None:
    assert ongpu([*REHEARSE, "--", sys.executable, "-c", "raise SystemExit(7)"], cwd=tmp_path).status == 3
    bundle = tmp_path / "ev"
    journal = (bundle / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in journal]
    (bundle / "journal.jsonl").write_bytes(b"".join(journal[: kinds.index(cut_before)]))
    written = {one.name: one.read_text("utf-8") for one in (bundle / "blocked").iterdir()}
    gone = [bundle / "manifest.json", bundle / "blocked" / "report.md"]
    gone += [bundle / "blocked" / "cause.json"] if cut_before == "files" else []
    for one in gone:
        one.unlink()
    assert ongpu(["evidence", "recover", "ev"], cwd=tmp_path).status == 0
    assert checked(tmp_path) == (3, "insufficient")
    again = {one.name: one.read_text("utf-8") for one in (bundle / "blocked").iterdir()}
    assert set(again) == set(written)
    assert again["cause.json"] == written["cause.json"]
    assert again["report.md"].startswith("# ")


def test_no_room_for_the_first_record_leaves_no_folder(tmp_path: Path) -> None:
    status, _ = limited(0, tmp_path)
    assert status == 2
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_gets_whole_lines_and_a_narrow_one_folded(tmp_path: Path) -> None:
    words = ["plan", "--gpu", "RTX 5090"]
    whole = ongpu(words, cwd=tmp_path, variables={"COLUMNS": ""}).out
    assert max(map(len, whole.splitlines())) > 100
    narrow = ongpu(words, cwd=tmp_path, variables={"COLUMNS": "60"}).out
    assert max(map(len, narrow.splitlines())) <= 60
    for line in (whole + narrow).splitlines():
        assert line == line.rstrip()
