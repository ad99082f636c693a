"""``ongpu train``: the reference training by another Python, its streams and its status handed on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.cli_harness import environment, ongpu

pytestmark = pytest.mark.process
TRAIN = ["train", "--python", sys.executable]
RECORD = {
    "trace_version": "1.0",
    "prompt": "1 + 1?",
    "final_answer": "2",
    "steps": [{"i": 0, "type": "reason", "content": "Add."}],
    "meta": {"dataset": "mine", "category": "reasoning"},
}


def test_its_options_are_shown_without_an_environment(tmp_path: Path) -> None:
    ran = ongpu(["train", "--help-training"], cwd=tmp_path)
    assert ran.status == 0 and "--max_steps" in ran.out and "--on-bad-record" in ran.out


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_cuda_is_never_anything_else(tmp_path: Path) -> None:
    ran = ongpu([*TRAIN, "--device", "cuda", "--output", "out"], cwd=tmp_path)
    assert ran.status == 3 and "no-gpu-visible" in ran.err
    assert list(tmp_path.iterdir()) == []


BAD = [
    (["--device", "gpu"], "--device gpu"),
    (["--config", "nowhere.yaml"], "no configuration"),
    (["--config", "folder"], "is a folder"),
    (["--config", "empty.yaml"], "is empty"),
    (["--config", "binary.yaml"], "binary"),
    (["--config", "tab.yaml"], "line 2: a tab"),
    (["--config", "unknown.yaml"], "unknown key 'modell'"),
    (["--dataset", "nowhere.jsonl"], "no data set"),
    (["--dataset", "empty.jsonl"], "it is empty"),
    (["--dataset", "bad.jsonl"], "line 2"),
    (["--output", "empty.yaml"], "is a file"),
    (["--no-such-option"], "unrecognized arguments"),
    (["--python", "nowhere"], "There is no Python"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message_with_a_next_step(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, text in {
        "empty.yaml": "",
        "tab.yaml": "seed: 1\n\tdevice: cpu\n",
        "unknown.yaml": "modell: tiny\n",
        "empty.jsonl": "",
        "bad.jsonl": f"{json.dumps(RECORD)}\nnot JSON\n{json.dumps(RECORD)}\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)) * 8)
    before = sorted(tmp_path.rglob("*"))
    ran = ongpu([*TRAIN, "--device", "cpu", "--max_steps", "1", "--output", "out", *words], cwd=tmp_path)
    assert ran.status == 2, ran.err
    lines = ran.err.splitlines()
    assert message in lines[0], ran.err
    assert lines[-1].lower().startswith("next: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_request_to_end_reaches_the_training_once_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "ongpu", *TRAIN, "--device", "cpu", "--max_steps", "5000", "--output", "out"]
    log = tmp_path / "log"
    with log.open("wb") as out, subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=out, stderr=out) as it:
        deadline = time.monotonic() + 100
        while b"step 1/" not in log.read_bytes() and it.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        it.send_signal(signal.SIGTERM)
        it.wait(timeout=60)
    said = log.read_text("utf-8")
    assert it.returncode == 130, said
    assert "Traceback" not in said and "--resume" in said
    assert list((tmp_path / "out").glob("checkpoint*")) or list((tmp_path / "out").rglob("*.safetensors"))
