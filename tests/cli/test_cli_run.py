"""``ongpu run -- CMD``: the command's own output and status, and a verdict beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_harness import environment, ongpu

pytestmark = pytest.mark.process
ON_CPU = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(30):
    optimizer.zero_grad()
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
print("trained")
"""


def test_every_byte_of_the_command_passes(tmp_path: Path) -> None:
    code = "import os, sys; d = os.urandom(300_000); open('copy', 'wb').write(d); sys.stdout.buffer.write(d)"
    argv = [sys.executable, "-m", "ongpu", "run", "--", sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.stdout == (tmp_path / "copy").read_bytes()
    start = json.loads((tmp_path / "ongpu_runs" / "run" / "journal.jsonl").read_text("utf-8").splitlines()[0])
    assert start["data"]["argv"][-1] == code


def test_a_command_without_torch_is_unknown_and_its_status_handed_on(tmp_path: Path) -> None:
    ran = ongpu(["run", "--json", "v.json", "--", "sh", "-c", "echo out; echo err >&2"], cwd=tmp_path)
    assert (ran.status, ran.out) == (3, "out\n")
    assert ran.err.startswith("err\n") and "Verdict: unknown" in ran.err and "none imported torch" in ran.err
    assert ran.err.splitlines()[-1].startswith("Next: ")
    document = json.loads((tmp_path / "v.json").read_text("utf-8"))
    assert document == json.loads((tmp_path / "ongpu_runs" / "run" / "verdict.json").read_text("utf-8"))
    assert document["verdict"]["outcome"] == "unknown"
    again = ongpu(["run", "--", "sh", "-c", "exit 7"], cwd=tmp_path)
    assert again.status == 7 and "ongpu_runs/run-2" in again.err.replace("\n", "")
    killed = ongpu(["run", "--", "sh", "-c", "kill -9 $$"], cwd=tmp_path)
    assert killed.status == 128 + signal.SIGKILL
    for name in ("run", "run-2", "run-3"):
        assert ongpu(["evidence", "check", f"ongpu_runs/{name}"], cwd=tmp_path).status == 0


def test_a_training_on_the_cpu_is_refuted(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(ON_CPU)
    ran = ongpu(["run", "--evidence", "ev", "--", sys.executable, "train.py"], cwd=tmp_path, variables={"COLUMNS": ""})
    assert (ran.status, ran.out) == (1, "trained\n"), ran.err
    assert "Verdict: refuted" in ran.err and "silent-cpu" in ran.err and "It trained on the CPU" in ran.err
    assert ran.err.count("the training process held no GPU memory") == 1
    assert ongpu(["evidence", "check", "ev"], cwd=tmp_path).status == 0


BAD = [
    ([], "There is no command"),
    (["--", ""], "There is no command"),
    (["--", "no-such-command"], "no command that can be started"),
    (["--", "./folder"], "is a folder"),
    (["--json", "nowhere/v.json", "--", "true"], "does not exist"),
    (["--json", "folder", "--", "true"], "is a folder"),
    (["--fail-fast", "-1", "--", "true"], "no time to wait"),
    (["--fail-fast", "nan", "--", "true"], "no time to wait"),
    (["--fail-fast", "soon", "--", "true"], "--fail-fast"),
    (["--expect-gpu", "", "--", "true"], "--expect-gpu is empty"),
    (["--evidence", "folder", "--", "true"], "not empty"),
    (["--json"], "requires an argument"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message_with_a_next_step(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    ran = ongpu(["run", *words], cwd=tmp_path)
    assert (ran.status, ran.out) == (2, ""), ran.err
    lines = ran.err.splitlines()
    assert message in lines[0] and lines[-1].startswith("Next: ") and len(lines) == 2, ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_interrupt_is_the_commands_and_the_bundle_is_sealed(tmp_path: Path) -> None:
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    argv = [sys.executable, "-m", "ongpu", "run", "--evidence", "ev", "--", sys.executable, "-c", code]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as it:
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and it.poll() is None:
            pass
        it.send_signal(signal.SIGINT)
        _, err = it.communicate(timeout=60)
    assert it.returncode == 130, err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert ongpu(["evidence", "check", "ev"], cwd=tmp_path).status == 0
    assert '"end":"interrupted"' in (tmp_path / "ev" / "journal.jsonl").read_text("utf-8")


def test_an_interrupt_at_any_moment_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    """From the first import on: nobody knows where it strikes, so it strikes at several moments."""
    for moment in range(6):
        argv = [sys.executable, "-m", "ongpu", "run", "--evidence", f"ev{moment}", "--", "sleep", "60"]
        with subprocess.Popen(argv, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as it:
            try:
                it.wait(timeout=0.12 + moment * 0.09)
            except subprocess.TimeoutExpired:
                it.send_signal(signal.SIGTERM)
            _, err = it.communicate(timeout=60)
        if it.returncode == -signal.SIGTERM and not err:
            continue  # Python itself had not started yet
        assert it.returncode in (130, 143), (moment, it.returncode, err)  # 143: the command's own end by SIGTERM
        assert b"Traceback" not in err and b"Next: " in err, (moment, err)
        bundle = tmp_path / f"ev{moment}"
        assert not bundle.exists() or (bundle / "manifest.json").is_file()


def test_a_command_that_fails_leaves_the_cause_its_log_names(tmp_path: Path) -> None:
    said = "AssertionError: Torch not compiled with CUDA enabled"
    ran = ongpu(["run", "--evidence", "ev", "--", "sh", "-c", f"echo '{said}' >&2; exit 3"], cwd=tmp_path)
    assert ran.status == 3
    assert "exit status 3. Cause: cpu-only-torch" in ran.err and f"| training_log.txt:1: {said}" in ran.err
    page = (tmp_path / "ev" / "blocked.txt").read_text("utf-8")
    assert "Not tried, and why:" in page and "A second attempt: not made" in page
    document = ongpu(["diagnose", "ev", "--json"], cwd=tmp_path).document()
    assert (document["cause"], document["source"], document["findings"][0]["line"]) == (
        "cpu-only-torch",
        "training_log.txt",
        1,
    )
    assert document["block"]["phase"] == "run" and len(document["not_tried"]) == 2
    assert ongpu(["evidence", "check", "ev"], cwd=tmp_path).status == 0
