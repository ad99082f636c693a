"""Whole runs of the command line: what they leave behind, how they stop, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook

from ongpu.training import checkpoint
from ongpu.training.main import main
from ongpu.training.output import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training/run_train_torch.py"
pytestmark = pytest.mark.process


def config(folder: Path, **changes: object) -> Path:
    """A small, quick configuration in ``folder``."""
    values: dict[str, object] = {"batch_size": 2, "max_seq_length": 32, "vocab_size": 400, "tensorboard": False}
    path = folder / "job.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**values, **changes}.items()))
    return path


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [one["loss"] for one in metrics(folder)]


def run(*options: object) -> int:
    return main([str(option) for option in options])


def test_the_embedded_default_learns_in_fifty_steps_and_transformers_loads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a/b"
    assert run("--output", out, "--device", "cpu", "--max_steps", "50") == 0
    text = capsys.readouterr().out
    assert text.startswith("Using device: cpu\nDevice name: CPU")
    assert "420 of 550 records are longer than 64 tokens and were cut" in text
    series = metrics(out)
    assert [one["step"] for one in series] == list(range(1, 51))
    assert set(series[0]) == {
        "step", "loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_s", "device", "memory_reserved_bytes",
    }  # fmt: skip
    assert series[0]["device"] == "cpu"
    assert series[0]["memory_reserved_bytes"] is None
    assert sum(losses(out)[-5:]) / 5 < 0.5 * losses(out)[0]
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    events = list((out / "tensorboard").iterdir())
    assert len(events) == 1
    assert events[0].stat().st_size > 50 * 3 * 30
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    ids = tokenizer("Question: Compute (2 + 3) * 4.\nReasoning:\n", return_tensors="pt")
    assert tokenizer.decode(ids["input_ids"][0]) == "Question: Compute (2 + 3) * 4.\nReasoning:\n"
    assert torch.isfinite(model(**ids).logits).all()
    assert run("--output", out, "--device", "cpu") == 2
    assert "already holds a finished run" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_series_and_another_one_does_not(tmp_path: Path) -> None:
    path = config(tmp_path)
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert (
            run("--config", path, "--output", tmp_path / name, "--device", "cpu", "--max_steps", 3, "--seed", seed) == 0
        )
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_accumulated_micro_steps_are_one_large_batch(tmp_path: Path) -> None:
    for name, batch, micro in (("a", 4, 1), ("b", 2, 2)):
        path = config(tmp_path, batch_size=batch, grad_accumulation_steps=micro)
        assert run("--config", path, "--output", tmp_path / name, "--device", "cpu", "--max_steps", 4) == 0
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)


def test_packed_chunked_and_plain_runs_have_the_same_series(tmp_path: Path) -> None:
    ways: dict[str, dict[str, object]] = {
        "plain": {},
        "packed": {"packing": True},
        "chunked": {"loss_chunk_tokens": 16},
        "twice": {"recompute_blocks": True},
    }
    for name, changes in ways.items():
        path = config(tmp_path, batch_size=4, max_seq_length=200, **changes)
        assert run("--config", path, "--output", tmp_path / name, "--device", "cpu", "--max_steps", 6) == 0
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "plain"), abs=5e-5)
    assert losses(tmp_path / "chunked") == pytest.approx(losses(tmp_path / "plain"), abs=5e-5)
    assert losses(tmp_path / "twice") == losses(tmp_path / "plain")


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        path = config(tmp_path, precision=precision)
        assert run("--config", path, "--output", tmp_path / precision, "--device", "cpu", "--max_steps", 8) == 0
    assert losses(tmp_path / "bfloat16") == pytest.approx(losses(tmp_path / "float32"), rel=0.02)
    assert losses(tmp_path / "bfloat16") != losses(tmp_path / "float32")


def test_records_held_out_are_not_trained_on_and_have_a_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = config(tmp_path, eval_fraction=0.1, eval_every=2), tmp_path / "out"
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 5, "--explain") == 0
    facts = json.loads((out / "run.json").read_text())
    assert [step for step, _ in facts["held_out_loss"]] == [2, 4, 5]
    values = [loss for _, loss in facts["held_out_loss"]]
    assert values[0] > values[1] > values[2]
    said = capsys.readouterr().out
    assert f"step 5/5  held-out loss {values[-1]:.4f}" in said
    assert "Choice: step recorded as a CUDA graph: no, the device is not a GPU" in said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_run_keeps_a_checkpoint_and_resumes_the_same_series(tmp_path: Path, name: str) -> None:
    path = config(tmp_path)
    common = ["--config", str(path), "--device", "cpu", "--max_steps", "60"]
    assert run(*common, "--output", tmp_path / "straight") == 0
    out = tmp_path / "stopped"
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), *common, "--output", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("step 1/60"):
            break
    child.send_signal(getattr(signal, name))
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert f"Stopped by {name} after step" in errors
    assert "--resume" in errors
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
    assert not (out / "model.safetensors").exists()
    before = metrics(out)[-1]["step"]
    assert 0 < before < 60, "the run was not stopped in the middle"
    assert run(*common, "--output", out, "--resume") == 0
    assert [one["step"] for one in metrics(out)] == list(range(1, 61))
    assert losses(out) == losses(tmp_path / "straight")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "straight/model.safetensors").read_bytes()


def test_a_signal_while_the_model_is_saved_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = RunFolder.save_model

    def save_late(folder: RunFolder, write: Callable[[Path], None]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(folder, write)

    monkeypatch.setattr(RunFolder, "save_model", save_late)
    out = tmp_path / "out"
    assert run("--config", config(tmp_path), "--output", out, "--device", "cpu", "--max_steps", 1) == 0
    assert (out / "model.safetensors").exists()
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = config(tmp_path, save_every=2), tmp_path / "out"
    assert run("--config", path, "--output", tmp_path / "straight", "--device", "cpu", "--max_steps", 8) == 0
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 6) == 0
    kept = sorted(one.name for one in (out / "checkpoints").iterdir())
    assert kept == ["step-000004", "step-000006"]
    state = out / "checkpoints/step-000006/state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 8, "--resume") == 0
    said = capsys.readouterr().out
    assert "Checkpoint step-000006 is not used: the digest of state.safetensors does not agree." in said
    assert "Resuming after step 4" in said
    assert losses(out) == losses(tmp_path / "straight")


def test_every_cut_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4.0)}
    path = checkpoint.save(tmp_path, step=3, tensors=tensors, settings={"seed": 1})
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for size in (*range(0, len(whole), 7), len(whole) - 1):
            file.write_bytes(whole[:size])
            if not (file.name == "SHA256SUMS" and size == len(whole) - 1):  # its last byte is the final newline
                assert checkpoint.newest(tmp_path, note=lambda _: None) is None, (file.name, size)
        file.write_bytes(whole)
    found = checkpoint.newest(tmp_path, note=lambda _: None)
    assert found is not None
    assert checkpoint.load_tensors(found)["a"].tolist() == [0, 1, 2, 3]


def test_a_new_checkpoint_is_kept_beside_a_newer_damaged_one(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4.0)}
    for step in (4, 6):
        checkpoint.save(tmp_path, step=step, tensors=tensors, settings={}, keep=2)
    (tmp_path / "checkpoints/step-000006/SHA256SUMS").unlink()
    checkpoint.save(tmp_path, step=5, tensors=tensors, settings={}, keep=1)  # by a run that resumed after step 4
    found = checkpoint.newest(tmp_path, note=lambda _: None)
    assert found is not None
    assert found.step == 5
    checkpoint.save(tmp_path, step=6, tensors=tensors, settings={}, keep=1)
    assert [one.name for one in (tmp_path / "checkpoints").iterdir()] == ["step-000006"]


def test_a_signal_behind_a_checkpoint_does_not_write_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between removing the first and renaming the second, a kill would have left none."""
    rename, renamed = os.rename, list[str]()

    def rename_and_stop(old: Path, new: Path) -> None:
        rename(old, new)
        renamed.append(Path(new).name)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "rename", rename_and_stop)
    path, out = config(tmp_path, save_every=2, keep_checkpoints=1), tmp_path / "out"
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 6) == 130
    assert renamed == ["step-000002"]
    assert "Stopped by SIGTERM after step 2 of 6; the checkpoint is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--seed", "43"), "seed = 42; this one has 43"),
        (("--max_steps", "2"), "already has 2 of 2 steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], word: str
) -> None:
    path, out = config(tmp_path, save_every=2), tmp_path / "out"
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 2) == 0
    before = (out / "run.json").read_bytes()
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 4, "--resume", *options) == 2
    assert word in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = config(tmp_path, learning_rate=1e30, max_grad_norm=0), tmp_path / "out"
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 9) == 1
    error = capsys.readouterr().err
    last = metrics(out)[-1]["step"]
    assert f"at step {last + 1} (learning rate 1e+30, records [" in error
    assert "the update was withheld" in error
    assert not (out / "model.safetensors").exists()
    assert json.loads((out / "run.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("save_every", [0, 1])
def test_weights_that_the_last_update_spoiled_are_not_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], save_every: int
) -> None:
    path, out = config(tmp_path, learning_rate=1e300, save_every=save_every), tmp_path / "out"
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 1) == 1
    said = "The update of step 1 left transformer.wte.weight with values that are not finite"
    assert said in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    assert not list(out.glob("checkpoints/step-*"))


def test_a_late_warning_about_an_unsupported_gpu_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation."
    )

    def warn(*_: object) -> None:
        warnings.warn(text, stacklevel=1)

    handle = register_optimizer_step_post_hook(warn)
    try:
        with pytest.warns(UserWarning, match="sm_120"):
            assert run("--config", config(tmp_path), "--output", tmp_path / "out", "--device", "cpu") == 3
    finally:
        handle.remove()
    assert capsys.readouterr().err.splitlines()[:2] == [
        f"error [wheel-no-arch]: torch warns that it does not support the GPU: {text}",
        f"  | {text}",
    ]
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_local_folder_is_trained_through_transformers_with_the_same_numbers(tmp_path: Path) -> None:
    path, ours, theirs = config(tmp_path), tmp_path / "ours", tmp_path / "theirs"
    assert run("--config", path, "--output", ours, "--device", "cpu", "--max_steps", 2) == 0
    path = config(tmp_path, model=str(ours))
    assert run("--config", path, "--output", theirs, "--device", "cpu", "--max_steps", 2) == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    assert torch.isfinite(again.transformer.wte.weight).all()
    assert transformers.AutoTokenizer.from_pretrained(theirs).eos_token == "<|endoftext|>"
    assert losses(theirs)[0] < losses(ours)[0]


def test_a_broken_model_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    for name, said in (("model", "has no config.json"), ("none", "There is no model folder")):
        path = config(tmp_path, model=str(tmp_path / name))
        assert run("--config", path, "--output", tmp_path / "out", "--device", "cpu") == 2
        error = capsys.readouterr().err
        assert str(tmp_path / name) in error
        assert said in error
        assert not (tmp_path / "out").exists()


def test_a_model_larger_than_the_machine_s_memory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"vocab_size": 400, "n_positions": 8, "n_embd": 1 << 30, "n_layer": 1, "n_head": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    path = config(tmp_path, model=str(tmp_path), weights="random")
    assert run("--config", path, "--output", tmp_path / "out", "--device", "cpu") == 3
    said = capsys.readouterr().err
    assert "error [out-of-memory]: The memory of this machine (not of a GPU) is not enough: " in said
    assert not (tmp_path / "out").exists()


def test_what_the_run_cannot_do_is_said_though_nobody_asked_for_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, kernels="always", cuda_graph="auto")
    assert run("--config", path, "--output", tmp_path / "out", "--device", "cpu", "--max_steps", 1) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Choice: ")]
    assert said == ["Choice: kernels of our own: no, the device is not a GPU"]


def test_the_length_of_a_record_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ("--config", config(tmp_path), "--output", out, "--device", "cpu", "--max_steps", 1)
    assert run(*options, "--max_seq_length", 20) == 0
    assert "550 of 550 records are longer than 20 tokens and were cut" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text())["config"]["max_seq_length"] == 20
    assert run(*options, "--max_seq_length", 1) == 2
    assert "--max_seq_length 1 is not 2 or more" in capsys.readouterr().err


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU-only torch")
def test_cuda_without_a_gpu_is_blocked_before_the_data_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out/deeper"
    assert run("--output", out, "--device", "cuda", "--dataset", tmp_path / "there is none") == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error [")
    assert "next: " in printed.err
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_message_with_a_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/config.json").write_text("{}")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    good = ("--device", "cpu", "--max_steps", "1")
    out = tmp_path / "out"
    cases: list[tuple[int, tuple[object, ...], str]] = [
        (2, ("--device", "gpu"), "--device gpu is not one of cuda, cpu, auto"),
        (2, ("--max_steps", "x"), "invalid int value"),
        (2, ("--max_steps", "0"), "--max_steps 0 is not greater than 0"),
        (2, ("--unknown",), "unrecognized arguments: --unknown"),
        (2, ("--config", tmp_path / "none.yaml"), "There is no configuration"),
        (2, (*good, "--output", tmp_path / "file"), "is a file, not a folder"),
        (2, (*good, "--output", tmp_path / "taken"), "already holds config.json"),
        (2, (*good, "--output", out, "--resume"), "There is no run to resume"),
        (1, (*good, "--output", "/proc/ongpu"), "cannot be written"),
        (1, (*good, "--output", tmp_path / "file/below"), "cannot be written"),
        (
            2,
            (*good, "--output", out, "--dataset", tmp_path / "bad.jsonl"),
            "line 1: the key 'trace_version' is missing",
        ),
        (2, (*good, "--output", out, "--dataset", tmp_path), "is a folder"),
    ]
    for status, options, word in cases:
        assert run(*options) == status, options
        error = capsys.readouterr().err
        assert word in error
        assert "Traceback" not in error
        assert len(error.splitlines()) == 2
        assert error.splitlines()[1].startswith("next: ")
        assert not out.exists(), options


@pytest.mark.skipif(os.name == "nt", reason="nothing is locked there")
def test_two_runs_cannot_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = config(tmp_path), tmp_path / "out"
    first = RunFolder.claim(out, resume=False)
    assert run("--config", path, "--output", out, "--device", "cpu") == 2
    assert "Another run is writing to" in capsys.readouterr().err
    first.close()
    assert run("--config", path, "--output", out, "--device", "cpu", "--max_steps", 1) == 0


def test_more_than_one_process_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--config", config(tmp_path), "--output", tmp_path / "out", "--device", "cpu") == 2
    assert "asks for 2 processes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_lines_can_be_skipped_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (
        '{"trace_version":"1.0","prompt":"a b c","final_answer":"d","steps":[{"i":0,"type":"t","content":"e f g"}]}\n'
    )
    (tmp_path / "d.jsonl").write_text(good * 3 + "oops\n" + good)
    options = ("--config", config(tmp_path), "--dataset", tmp_path / "d.jsonl", "--device", "cpu", "--max_steps", 1)
    assert run(*options, "--output", tmp_path / "a") == 2
    assert run(*options, "--output", tmp_path / "b", "--on-bad-record", "skip") == 0
    assert "1 bad lines skipped; the first is line 4: not JSON at column 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "b/run.json").read_text())["skipped_lines"] == [4]


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from ongpu.training.main import main
from ongpu.training.output import RunFolder
sys.exit(main(sys.argv[2:]))
"""


def child(code: str, *options: object, path: Path = ROOT / "src") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="limits a file's size as only POSIX systems can")
@pytest.mark.parametrize(
    ("limit_bytes", "changes", "word", "left"),
    [
        (300, {}, "run.json cannot be written", None),
        (3_000, {"max_steps": 40, "save_every": 0}, "metrics.jsonl cannot be written", {"metrics.jsonl", "run.json"}),
        (
            4_000,
            {"tensorboard": True},
            "The checkpoint of step 4 cannot",
            {"metrics.jsonl", "run.json", "tensorboard", "checkpoints"},
        ),
        (30_000, {}, "The checkpoint of step 4 cannot be written", {"metrics.jsonl", "run.json", "checkpoints"}),
    ],
)
def test_a_disk_that_fills_up_is_one_message_and_nothing_half_made(
    tmp_path: Path, limit_bytes: int, changes: dict[str, object], word: str, left: set[str] | None
) -> None:
    path, out = config(tmp_path, **{"save_every": 4, "max_steps": 4, **changes}), tmp_path / "out"
    ended = child(_LIMITED, limit_bytes, "--config", path, "--output", out, "--device", "cpu")
    assert ended.returncode == 1, ended.stderr
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    if left is None:
        assert not out.exists()
        return
    assert {one.name for one in out.iterdir()} == left
    if "checkpoints" in left:
        assert list((out / "checkpoints").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="limits a file's size as only POSIX systems can")
def test_a_model_that_does_not_fit_leaves_no_half_of_it(tmp_path: Path) -> None:
    path, out = config(tmp_path), tmp_path / "out"
    ended = child(_LIMITED, 100_000, "--config", path, "--output", out, "--device", "cpu", "--max_steps", 2)
    assert ended.returncode == 1, ended.stderr
    assert "The model cannot be saved" in ended.stderr
    assert {one.name for one in out.iterdir()} == {"metrics.jsonl", "run.json"}
    assert json.loads((out / "run.json").read_text())["state"] == "failed"


_WITHOUT = """
import sys
for name in ("transformers", "tensorboard", "tqdm", "msgspec", "rich", "typer", "psutil", "pynvml"):
    sys.modules[name] = None
from ongpu.training.main import main
from ongpu.training.output import RunFolder
status = main(sys.argv[1:])
assert "torch._dynamo" not in sys.modules, "a second of import time that nothing here needs"
sys.exit(status)
"""


def test_a_staged_folder_trains_without_ongpu_s_other_dependencies(tmp_path: Path) -> None:
    staged = tmp_path / "staged/ongpu"
    staged.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "domain", "training"):
        (staged / name).symlink_to(ROOT / "src/ongpu" / name)
    path = config(tmp_path, tensorboard=True)
    common = ("--config", path, "--device", "cpu", "--max_steps", 2)
    ended = child(_WITHOUT, *common, "--output", tmp_path / "out", path=staged.parent)
    assert ended.returncode == 0, ended.stderr
    assert "TensorBoard is not installed" in ended.stdout
    path = config(tmp_path, model="someone/something")
    ended = child(_WITHOUT, *common, "--output", tmp_path / "hub", path=staged.parent)
    assert ended.returncode == 1
    assert "needs the transformers library" in ended.stderr
    module = subprocess.run(
        [sys.executable, "-m", "ongpu.training", "--device", "gpu"],
        env={**os.environ, "PYTHONPATH": str(staged.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert module.returncode == 2


def test_help_needs_no_torch() -> None:
    code = "import sys; from ongpu.training.main import main\ntry: main(['--help'])\nexcept SystemExit as e: " \
        "assert e.code == 0\nassert 'torch' not in sys.modules"  # fmt: skip
    assert child(code).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_progress_bar_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    import pty

    command = [sys.executable, str(SCRIPT), "--config", str(config(tmp_path)), "--device", "cpu", "--max_steps", "3"]
    plain = subprocess.run([*command, "--output", str(tmp_path / "a")], capture_output=True, check=True)
    assert plain.stderr == b""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*command, "--output", str(tmp_path / "b")], stderr=theirs, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
    os.set_blocking(ours, False)
    drawn = os.read(ours, 65536)  # our own end of the other side is open, or the kernel would throw this away
    os.close(theirs)
    os.close(ours)
    assert child.returncode == 0
    assert b"/3 [" in drawn


def test_a_reader_who_leaves_is_one_message(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--config", str(config(tmp_path)), "--device", "cpu", "--max_steps", "3"]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read()
    assert child.returncode == 1
    assert errors.startswith("error: Whoever read this run's output has gone.\nnext: ")
    assert len(errors.splitlines()) == 2
