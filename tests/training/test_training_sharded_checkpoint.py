"""Checkpoints of which every rank writes a part, over gloo on the CPU: begun, hurt, resumed."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ongpu.errors import WorkError
from ongpu.training import checkpoint, sharded_checkpoint
from ongpu.training.ranks import Alone
from tests.training import training_forked_ranks as forked
from tests.training.training_ranks_jobs import losses, on_cpu, small

pytestmark = [
    pytest.mark.process,
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and /dev/full"),
]

COMMON: dict[str, object] = {"max_steps": 6, "save_every": 2, "learning_rate": 3e-3, "batch_size": 3}
LAST = ".partial-step-000004"
FAULTS: dict[str, dict[int, forked.Fault]] = {
    "full": {1: ("open to write", f"{LAST}/shard-00002", "full")},
    "first full": {0: ("open to write", f"{LAST}/meta.json", "full")},
    "gone": {1: ("open to read", f"{LAST}/shard-00002", "gone")},
    "cut": {1: ("open to write", f"{LAST}/shard-00002", "cut")},
    "killed": {1: ("open to write", f"{LAST}/shard-00002", "kill")},
    "first killed": {0: ("os.rename", LAST, "kill")},
}
"""What happens while the checkpoint of step 4 is written, and to which rank."""
GO_ON: dict[str, tuple[int, int, str]] = {
    "two": (2, 3, "fsdp"),
    "three": (3, 2, "fsdp"),
    "wholes": (2, 3, "ddp"),
    "one": (1, 6, "auto"),
}
"""Ways to resume: number of ranks, batch of each, how weights are held."""
APART = {"no folder": "missing", "own folder": "elsewhere"}
"""What the second rank has in the place of the first one's folder."""


@dataclass(frozen=True)
class Ended:
    """What the ranks left behind."""

    folder: Path
    statuses: dict[str, list[int]]

    def said(self, name: str) -> list[str]:
        """What each rank of a job said."""
        return [path.read_text() for path in sorted(self.folder.glob(f"{name}-?.txt"))]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """All jobs of this file: those that begin side by side, then those that resume."""
    folder = tmp_path_factory.mktemp("parts")
    path = small(folder, "parts", **COMMON, parallel="fsdp")
    begun = {name: [on_cpu(path, folder / name)] * 2 for name in ("straight", *FAULTS)}
    begun["begun"] = [on_cpu(path, folder / "begun", "--max_steps", 4)] * 2
    (folder / "elsewhere").mkdir()
    for name, its_own in APART.items():
        begun[name] = [on_cpu(path, folder / name), on_cpu(path, folder / its_own)]
    again = {f"{name} again": [on_cpu(path, folder / name, "--resume")] * 2 for name in ("cut", "first killed")}
    for name, (size, batch, parallel) in GO_ON.items():
        other = small(folder, name, **{**COMMON, "batch_size": batch, "parallel": parallel})
        again[name] = [on_cpu(other, folder / name, "--resume")] * size
    started = forked.start(folder, [begun, again], faults=FAULTS, copies=dict.fromkeys(GO_ON, "begun"))
    return Ended(folder=folder, statuses=forked.finish(started))


def test_each_rank_writes_its_own_part(ended: Ended) -> None:
    assert ended.statuses["straight"] == [0, 0], ended.said("straight")
    out = ended.folder / "straight"
    assert [one.name for one in sorted((out / "checkpoints").iterdir())] == ["step-000004", "step-000006"]
    found = checkpoint.newest(out, note=lambda _: None)
    assert found is not None
    assert found.in_parts
    parts = {rank: [name for name in found.files if name.startswith(f"shard-0000{rank}-")] for rank in (1, 2)}
    assert len(parts[1]) == len(parts[2]) == len(found.files) / 2 > 1
    sizes = [sum((found.path / name).stat().st_size for name in names) for names in parts.values()]
    assert max(sizes) < 1.2 * min(sizes)
    assert not list(out.glob(".*"))
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", FAULTS)
def test_a_rank_that_fails_while_it_writes_leaves_the_older_checkpoint(ended: Ended, name: str) -> None:
    """The statuses tell that the fault fired: without it all are 0."""
    [(rank, (_, _, what))] = FAULTS[name].items()
    statuses, said = ended.statuses[name], ended.said(name)
    assert f"FAULT {what}" in said[rank]
    assert "Traceback" not in "".join(said)
    if what in {"full", "gone"}:
        assert statuses == [1, 1], said
        assert "".join(said).count("The checkpoint of step 4 cannot be written") == 1
        assert ("No space left on device" if what == "full" else "rank 1: [Errno 2] No such file") in "".join(said)
        assert "(the older checkpoint is intact) and continue with --resume" in "".join(said)
    else:
        assert statuses[rank] == (-signal.SIGXFSZ if what == "cut" else -signal.SIGKILL)
        assert statuses[1 - rank] in {1, 3}, said
        assert "multi-gpu-comm" in said[1 - rank] or f"rank {rank} " in said[1 - rank]
    checkpoints, again = ended.folder / name / "checkpoints", f"{name} again"
    if again not in ended.statuses:
        found = checkpoint.newest(checkpoints.parent, note=pytest.fail)
        assert found is not None
        assert found.step == 2
        assert {one.name for one in checkpoints.iterdir()} <= {"step-000002", LAST}
        assert (what in {"full", "gone"}) != (checkpoints / LAST).exists()
        return
    assert ended.statuses[again] == [0, 0], ended.said(again)
    assert "Resuming after step 2" in ended.said(again)[0]
    assert losses(ended.folder / name) == losses(ended.folder / "straight")
    assert {one.name for one in checkpoints.iterdir()} == {"step-000004", "step-000006"}, "what was left aside stays"


@pytest.mark.parametrize("name", GO_ON)
def test_it_is_resumed_by_any_number_of_ranks(ended: Ended, name: str) -> None:
    assert ended.statuses["begun"] == [0, 0]
    assert ended.statuses[name] == [0] * GO_ON[name][0], ended.said(name)
    assert "Resuming after step 4" in ended.said(name)[0]
    straight, found = (losses(ended.folder / one) for one in ("straight", name))
    assert len(found) == 6
    assert found == (straight if name == "two" else pytest.approx(straight, rel=1e-5))
    if name == "two":
        saved = [(ended.folder / one / "model.safetensors").read_bytes() for one in ("straight", name)]
        assert saved[0] == saved[1]


@pytest.mark.parametrize("name", APART)
def test_ranks_that_do_not_share_the_folder_are_refused_before_the_first_step(ended: Ended, name: str) -> None:
    said = "".join(ended.said(name))
    assert ended.statuses[name] == [2, 2], said
    assert said.count("error: ") == said.count("next: Put --output on a disk that all nodes share") == 1
    assert ("Rank 1 cannot write" if name == "no folder" else "of rank 1 is not that of rank 0") in said
    assert not (ended.folder / name).exists()
    assert not list((ended.folder / "elsewhere").iterdir())


def _missing(path: Path) -> None:
    path.unlink()


def _changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("hurt", [_missing, _changed, _cut, _empty])
def test_a_folder_with_a_hurt_file_is_passed_over_and_named(
    ended: Ended, tmp_path: Path, hurt: Callable[[Path], None]
) -> None:
    whole = ended.folder / "straight/checkpoints"
    names = sorted(one.name for one in (whole / "step-000006").iterdir())
    assert len(names) == 12
    for name in names:
        out = tmp_path / name
        shutil.copytree(whole, out / "checkpoints")
        hurt(out / "checkpoints/step-000006" / name)
        notes: list[str] = []
        found = checkpoint.newest(out, note=notes.append)
        assert found is not None
        assert found.step == 4
        assert len(notes) == 1
        assert "Checkpoint step-000006 is not used: " in notes[0]
        if name.endswith(".safetensors"):
            assert name in notes[0]


def test_a_file_of_another_checkpoint_beside_its_own_is_noticed(ended: Ended, tmp_path: Path) -> None:
    shutil.copytree(ended.folder / "begun/checkpoints", tmp_path / "checkpoints")
    one = next((tmp_path / "checkpoints/step-000004").glob("shard-00002-model-00001-*"))
    shutil.copyfile(one, one.with_name(one.name.replace("00002", "00003")))
    notes: list[str] = []
    found = checkpoint.newest(tmp_path, note=notes.append)
    assert found is not None
    assert found.step == 2
    assert "is none of its files" in notes[0]


def test_every_rank_has_its_own_random_state_back_and_what_does_not_fit_is_one_error(ended: Ended) -> None:
    found = checkpoint.newest(ended.folder / "begun", note=pytest.fail)
    assert found is not None
    states = {name: torch.zeros_like(torch.get_rng_state()) for name in ("rng.cpu", "rng.cpu.1", "rng.cpu.2")}
    sharded_checkpoint.load(found, {}, states, ranks=Alone())
    for name, seed in (("rng.cpu", 42), ("rng.cpu.1", 43)):
        assert torch.equal(states[name], torch.Generator().manual_seed(seed).get_state()), name
    assert not states["rng.cpu.2"].any()
    for tensors in ({"model.other": torch.zeros(2)}, {"model.model.norm.weight": torch.zeros(3)}):
        with pytest.raises(WorkError, match=r"step-000004 cannot be read: rank 0: \w+Error: "):
            sharded_checkpoint.load(found, tensors, {}, ranks=Alone())
