"""Several processes that train as one, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from ongpu.errors import UsageError
from ongpu.training import checkpoint
from ongpu.training.batches import HeldOut, Stream
from ongpu.training.data import BytePairTokenizer, Example
from ongpu.training.main import main
from ongpu.training.place import Place
from tests.training import training_ranks_jobs as ranks
from tests.training.training_ranks_jobs import losses, on_cpu, series, small

pytestmark = [pytest.mark.process, pytest.mark.network]

COMMON: dict[str, object] = {
    "max_steps": 4, "save_every": 2, "eval_fraction": 0.1, "eval_every": 2, "learning_rate": 3e-3,
}  # fmt: skip
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "parts": {"parallel": "fsdp"},
    "half": {"precision": "bfloat16", "packing": True, "batch_size": 1, "grad_accumulation_steps": 2},
}


def alone(*given: object) -> int:
    return main([str(one) for one in given])


def _with_dropout(folder: Path) -> None:
    """A model that transformers opens and that draws random numbers in every step."""
    sizes = {"vocab_size": 400, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    settings = transformers.GPT2Config(**sizes, activation_function="relu", bos_token_id=0, eos_token_id=0)
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    texts = ["Question: What is 1 + 1?", "1. It is 2. Answer: 2"]
    BytePairTokenizer.from_texts(texts, vocab_size=300).save(folder)


@dataclass(frozen=True)
class Ended:
    """What two ranks left behind: their folder, their statuses by job, and what each wrote."""

    folder: Path
    statuses: dict[str, tuple[int, int]]
    errors: tuple[str, str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """What two ranks did: all in the same two processes, the last of which is killed."""
    if os.name == "nt":
        pytest.skip("POSIX signals")
    folder = tmp_path_factory.mktemp("ranks")
    job, nan = small(folder, "job"), small(folder, "nan", learning_rate=1e30, max_grad_norm=0)
    (folder / "taken").mkdir()
    (folder / "taken/config.json").write_text("{}")
    jobs: dict[str, ranks.Job] = {
        "no gpu": [on_cpu(job, folder / "a"), [*on_cpu(job, folder / "a"), "--device", "cuda"]],
        "taken": [on_cpu(job, folder / "taken")] * 2,
        "two seeds": [on_cpu(job, folder / "b", "--seed", seed) for seed in (1, 2)],
        "nan": [on_cpu(nan, folder / "c")] * 2,
        "unknown": [[*on_cpu(job, folder / "d"), "--unknown"]] * 2,
    }
    for name, way in WAYS.items():
        jobs[name] = [on_cpu(small(folder, name, **COMMON, **way), folder / name)] * 2
    jobs["begun"] = [on_cpu(folder / "plain.yaml", folder / "again", "--max_steps", 2)] * 2
    jobs["resumed"] = [on_cpu(folder / "plain.yaml", folder / "again", "--resume", "--parallel", "fsdp")] * 2
    _with_dropout(folder / "model")
    dropout = small(folder, "dropout", **{**COMMON, "model": str(folder / "model"), "weights": "pretrained"})
    jobs["dropout"] = [on_cpu(dropout, folder / "dropout")] * 2
    jobs["dropout begun"] = [on_cpu(dropout, folder / "dropped", "--max_steps", 2)] * 2
    jobs["dropout resumed"] = [on_cpu(dropout, folder / "dropped", "--resume")] * 2
    long = small(folder, "long", max_steps=20_000, log_every=1)
    jobs["signal"] = [on_cpu(long, folder / "long")] * 2
    jobs["killed"] = [on_cpu(long, folder / "long", "--resume")] * 2
    children = ranks.start(list(jobs.values()))
    said = ranks.read_until(children[0], "step 1/20000")
    children[1].send_signal(signal.SIGTERM)
    said += ranks.read_until(children[0], "Resuming after step")
    said += ranks.read_until(children[0], "step ")
    children[1].kill()
    first, second = ranks.finish(children)
    of_first = [int(line.split()[1]) for line in said if line.startswith("STATUS")] + first[0]
    assert len(of_first) == len(second[0]) + 1 == len(jobs), first[2] + second[2]
    statuses = dict(zip(jobs, zip(of_first, [*second[0], -signal.SIGKILL], strict=True), strict=True))
    return Ended(folder=folder, statuses=statuses, errors=(first[2], second[2]))


def test_a_rank_that_cannot_go_on_stops_all_with_its_reason(ended: Ended) -> None:
    failed = {name: both for name, both in ended.statuses.items() if both != (0, 0)}
    assert failed == {
        "no gpu": (3, 3), "taken": (2, 2), "two seeds": (2, 2), "nan": (1, 1), "unknown": (2, 2),
        "signal": (130, 130), "killed": (3, -9),
    }  # fmt: skip
    said = "".join(ended.errors)
    assert "Traceback" not in said
    assert "frame #" not in said, "the store was closed under a rank that still asked it"
    assert ended.errors[1].startswith("error [")
    assert ": rank 1 of 2: " in ended.errors[1].splitlines()[0]
    for text in (
        "already holds config.json",
        "Rank 1 has another configuration, data, tokenizer or choice of kernels than rank 0.",
        "the update was withheld",
        "unrecognized arguments",
    ):
        assert said.count(text) == 1, text
    assert said.count("next: ") == len(failed)
    assert not (ended.folder / "a").exists()
    assert json.loads((ended.folder / "c/run.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("name", WAYS)
def test_two_ranks_have_the_series_of_one_process_with_both_their_batches(
    ended: Ended, tmp_path: Path, name: str
) -> None:
    way, two = WAYS[name], ended.folder / name
    path = small(ended.folder, f"{name}-alone", **{**COMMON, **way, "batch_size": 4, "grad_accumulation_steps": 1})
    assert alone(*on_cpu(path, tmp_path / "one", "--parallel", "auto")) == 0
    near = 2e-2 if way.get("precision") else 1e-5
    expected, found = series(tmp_path / "one"), series(two)
    for key in ("loss", "grad_norm"):
        assert [one[key] for one in found] == pytest.approx([one[key] for one in expected], rel=near), key
    assert [one["tokens"] for one in found] == [one["tokens"] for one in expected]
    facts = [json.loads((out / "run.json").read_text()) for out in (two, tmp_path / "one")]
    assert facts[0]["held_out_loss"][1][1] == pytest.approx(facts[1]["held_out_loss"][1][1], rel=near)
    assert [one["rank"] for one in facts[0]["ranks"]] == [0, 1]
    saved = [safetensors.torch.load_file(out / "model.safetensors") for out in (two, tmp_path / "one")]
    for key, weight in saved[1].items():
        assert torch.allclose(saved[0][key], weight, atol=1e-2 if near > 1e-3 else 1e-4), key


def test_a_run_is_resumed_in_parts_or_by_another_number_of_ranks(ended: Ended, tmp_path: Path) -> None:
    assert losses(ended.folder / "again") == pytest.approx(losses(ended.folder / "plain"), rel=1e-5)
    out = tmp_path / "out"
    shutil.copytree(ended.folder / "plain", out)
    shutil.rmtree(out / "checkpoints/step-000004")
    path = small(ended.folder, "one", **{**COMMON, "batch_size": 4})  # one process, as many records a step
    assert alone(*on_cpu(path, out, "--resume")) == 0
    assert losses(out) == pytest.approx(losses(ended.folder / "plain"), rel=1e-5)


def test_every_rank_goes_on_with_its_own_random_numbers(ended: Ended) -> None:
    assert losses(ended.folder / "dropped") == losses(ended.folder / "dropout")
    found = checkpoint.newest(ended.folder / "dropped", note=lambda _: None)
    assert found is not None
    states = checkpoint.load_tensors(found)
    assert not torch.equal(states["rng.cpu"], states["rng.cpu.1"])


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_a_killed_one_is_missed(ended: Ended) -> None:
    out, said = ended.folder / "long", "".join(ended.errors)
    last = json.loads((out / "run.json").read_text())["resumed_from_step"]
    assert last > 0
    assert said.count(f"Stopped by a signal after step {last} of 20000") == 1
    assert "error [multi-gpu-comm]: rank 0 of 2: The ranks cannot talk to each other" in ended.errors[0]
    assert series(out)[-1]["step"] > last


def test_a_place_is_read_whole_or_refused() -> None:
    good = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    place = Place.read(good)
    assert place is not None
    assert (place.rank, place.local_rank, place.world_size, place.launcher_has_store) == (3, 1, 4, False)
    for name in ("WORLD_SIZE", "RANK"):
        assert Place.read({**good, "WORLD_SIZE": "1", "RANK": "0"}) is None, name
    broken: list[Mapping[str, str]] = [{"RANK": "4"}, {"RANK": "x"}, {"MASTER_ADDR": ""}, {"MASTER_PORT": ""}]
    for change in [*broken, {"LOCAL_RANK": "-1"}, {"WORLD_SIZE": "many"}]:
        with pytest.raises(UsageError, match="A launcher asks for"):
            Place.read({**good, **change})


def test_ranks_share_out_the_records_of_one_process() -> None:
    examples = [Example(ids=(1, 2, 3), labels=(2, 3, -100)) for _ in range(11)]
    whole = Stream(examples, seed=3, batch_size=4, micro_steps=3, max_steps=5, packed=False, fill=0)
    parts = [
        Stream(
            examples, seed=3, batch_size=2, micro_steps=3, max_steps=5, packed=False, fill=0, rank=rank, world_size=2
        )
        for rank in range(2)
    ]
    for step in range(1, 6):
        wanted = [index for batch in whole.step(step) for index in batch.records]
        found = [part.step(step) for part in parts]
        assert [index for pair in zip(*found, strict=True) for batch in pair for index in batch.records] == wanted
        assert {part.targets(step) for part in parts} == {whole.targets(step)} == {24}
        assert all(float(batch.share) == pytest.approx(1 / 24) for batches in found for batch in batches)
    held = HeldOut(examples, batch_size=2, fill=0)
    turns = [list(held.once("cpu", rank=rank, world_size=4)) for rank in range(4)]
    assert {len(turn) for turn in turns} == {2}
    assert sum(int((batch.labels >= 0).sum()) for turn in turns for batch in turn) == held.targets


def test_a_port_that_another_program_holds_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", ranks.free_port()))
        other.listen()
        port = other.getsockname()[1]
        where = {
            "WORLD_SIZE": "2",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for name, value in where.items():
            monkeypatch.setenv(name, value)
        assert main(["--output", str(tmp_path / "out"), "--device", "cpu"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(
        "error [multi-gpu-comm]: rank 0 of 2: The ranks cannot talk to each other: rank 0 cannot reach"
    )
    assert f"127.0.0.1:{port}" in said
    assert "EADDRINUSE" in said
    assert "next: See that every rank was started" in said
