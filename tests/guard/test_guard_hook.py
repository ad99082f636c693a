"""The hook in real torch on the CPU: what it records, and that it never gets in the way."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.verdict import WitnessState
from ongpu.guard.here import attach_here
from tests.guard.guard_harness import PYTHON, environment, prove, script

pytestmark = pytest.mark.process
torch = pytest.importorskip("torch")

HOOK = Path(__file__).parents[2] / "src" / "ongpu" / "guard" / "hook"

LOOP = """
import torch
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters())
unused = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(30):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
print("trained")
"""


def run_hooked(folder: Path, arguments: list[str], **more: str) -> tuple[list[dict[str, Any]], str]:
    """Run Python under the hook alone; its records, and its stdout."""
    records = folder / "records"
    records.mkdir(exist_ok=True)
    env = environment(PYTHONPATH=str(HOOK), ONGPU_HOOK_DIR=str(records), **more)
    done = subprocess.run([PYTHON, *arguments], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = sorted(records.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()], done.stdout


@contextmanager
def hooked(folder: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The hook in this very process; the records can be read inside, and after the end."""
    end = attach_here(folder)

    def records() -> list[dict[str, Any]]:
        return [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]

    try:
        yield records
    finally:
        end()


def step(model: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def test_gradients_inside_a_closure_are_seen(tmp_path: Path) -> None:
    with hooked(tmp_path) as records:
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).pow(2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.step(closure)
        sample = next(one for one in records() if one["record"] == "step")
    assert sum(sample["gradients"].values()) == 80
    assert sum(sample["state"].values()) > 0  # LBFGS keeps lists of vectors


def test_frozen_parameters_do_not_count(tmp_path: Path) -> None:
    with hooked(tmp_path) as records:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
        model[0].requires_grad_(requires_grad=False)
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert next(one for one in records() if one["record"] == "step")["parameters"] == {"cpu": 20}


def test_two_optimizers_are_two(tmp_path: Path) -> None:
    with hooked(tmp_path) as records:
        model = torch.nn.Linear(4, 4)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.AdamW(model.parameters())]
        for _ in range(3):
            for optimizer in optimizers:
                step(model, optimizer)
    end = records()[-1]
    assert [(one["optimizer_class"], one["steps"]) for one in end["optimizers"]] == [("SGD", 3), ("AdamW", 3)]
    assert end["steps"] == 6


def test_an_optimizer_that_breaks_the_hook_becomes_an_error_record(tmp_path: Path) -> None:
    class Liar:
        is_cuda, numel, device = True, 3, "x"

        def dim(self) -> int:
            return 1

    with hooked(tmp_path) as records:
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.state["odd"] = Liar()
        for _ in range(9):
            step(model, optimizer)
        errors = [one for one in records() if one["record"] == "error"]
    assert 1 <= len(errors) <= 5 and errors[0]["where"] == "step"


def test_warnings_about_the_capability_are_kept_and_still_shown(tmp_path: Path) -> None:
    text = "Found GPU0 Old which is of cuda capability 3.5."
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *_more, **_named: shown.append(str(message))
        with hooked(tmp_path) as records:
            warnings.warn(text, UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
            assert [one["text"] for one in records() if one["record"] == "warning"] == [text]
    assert shown == [text, "something else"]


def test_it_comes_off_again(tmp_path: Path) -> None:
    init, show = torch.optim.Optimizer.__init__, warnings.showwarning
    with hooked(tmp_path):
        assert torch.optim.Optimizer.__init__ is not init
    assert torch.optim.Optimizer.__init__ is init and warnings.showwarning is show
    before = sorted(tmp_path.glob("*.jsonl"))
    model = torch.nn.Linear(4, 4)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(before) == 1 and '"steps": 0' in before[0].read_text().splitlines()[-1]


def test_a_plain_loop_tells_where_its_tensors_are(tmp_path: Path) -> None:
    script(tmp_path, LOOP, "mymodule.py")
    records, out = run_hooked(tmp_path, ["-m", "mymodule"])
    assert out == "trained\n"
    assert [one["n"] for one in records] == list(range(len(records)))
    first, last = records[0], records[-1]
    assert first["record"] == "torch" and first["version"] == torch.__version__
    assert first["cuda"] == torch.version.cuda
    samples = [one for one in records if one["record"] == "step"]
    assert [one["optimizer_step"] for one in samples[:5]] == [1, 2, 3, 4, 5]
    size = (8 * 8 + 8) * 4
    assert samples[0]["parameters"] == samples[0]["gradients"] == {"cpu": size}
    assert samples[0]["state"] == {"cpu": 2 * size} and samples[0]["scalars_excluded"] == 2
    assert samples[-1]["final"] is True
    assert last["record"] == "end" and last["records"] == len(records)
    assert (last["steps"], last["created"], last["never_stepped"]) == (30, 2, 1)
    assert last["cuda_initialized"] is False and last["is_available"] is None
    assert last["optimizers"][0]["off_cuda_steps"] == 30
    steps = [step for one in records if one["record"] == "times" for step, _ in one["times"]]
    assert steps == sorted(set(steps)) and steps[0] == 1


def test_data_loader_workers_say_nothing(tmp_path: Path) -> None:
    text = """
import torch
data = torch.utils.data.TensorDataset(torch.randn(32, 8))
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for (batch,) in torch.utils.data.DataLoader(data, batch_size=8, num_workers=2):
    optimizer.zero_grad(); model(batch).sum().backward(); optimizer.step()
"""
    records, _ = run_hooked(tmp_path, [script(tmp_path, text)])
    assert len({one["pid"] for one in records}) == 1
    assert records[-1]["steps"] == 4


@pytest.mark.parametrize(("method", "children"), [("fork", 2), ("spawn", 1)])
def test_children_of_multiprocessing_speak_for_themselves(tmp_path: Path, method: str, children: int) -> None:
    text = f"""
import torch, torch.multiprocessing
def work(rank):
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3 + rank):
        optimizer.zero_grad(); model(torch.ones(2, 4)).sum().backward(); optimizer.step()
if __name__ == "__main__":
    torch.multiprocessing.start_processes(work, nprocs={children}, start_method={method!r})
"""
    records, _ = run_hooked(tmp_path, [script(tmp_path, text)])
    ends = {one["pid"]: one["steps"] for one in records if one["record"] == "end"}
    assert sorted(steps for steps in ends.values() if steps) == [3, 4][:children]
    for pid in ends:
        mine = [one for one in records if one["pid"] == pid]
        assert mine[0]["record"] == "torch" and mine[-1]["records"] == len(mine)


def test_compiled_steps_are_seen_and_left_whole(tmp_path: Path) -> None:
    text = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step = torch.compile(lambda: optimizer.step(), backend="eager")
forward = torch.compile(model, backend="eager")
for _ in range(4):
    optimizer.zero_grad(); forward(torch.ones(2, 4)).sum().backward(); step()
class Mine(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad)
mine = Mine(model.parameters())
whole = torch.compile(lambda: mine.step(), backend="eager", fullgraph=True)
whole()
"""
    records, _ = run_hooked(tmp_path, [script(tmp_path, text)])
    assert (records[-1]["steps"], records[-1]["never_stepped"]) == (4, 1)  # the whole one is not seen, and it is said
    assert not [one for one in records if one["record"] == "error"]


def test_the_users_sitecustomize_still_runs(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    script(theirs, "import builtins\nbuiltins.THEIRS = __file__\n", "sitecustomize.py")
    program = script(tmp_path, "import sys\nprint(THEIRS)\nprint(sys.modules['sitecustomize'].__file__)\n")
    records = tmp_path / "records"
    records.mkdir()
    path = os.pathsep.join([str(HOOK), str(theirs)])
    env = environment(PYTHONPATH=path, ONGPU_HOOK_DIR=str(records))
    done = subprocess.run([PYTHON, program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(theirs / "sitecustomize.py")] * 2
    assert list(records.iterdir()) == []  # no torch: no word


def test_a_hook_that_cannot_write_changes_nothing(tmp_path: Path) -> None:
    env = environment(PYTHONPATH=str(HOOK), ONGPU_HOOK_DIR=str(tmp_path / "not" / "there"))
    done = subprocess.run([PYTHON, script(tmp_path, LOOP)], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "trained\n", "")


def test_cpu_training_is_refuted_with_its_steps(tmp_path: Path) -> None:
    guarded = prove([PYTHON, script(tmp_path, LOOP)])
    assert guarded.result.status == 0 and guarded.result.hook_seen
    assert str(guarded.verdict.outcome) == "refuted"
    assert guarded.witness("W1").state is WitnessState.CONTRADICTED
    assert "parameters on cpu" in guarded.witness("W1").reason
    assert guarded.claim("no-silent-cpu") == "refuted"
    assert [one.kind for one in guarded.events] == ["started"]


@pytest.mark.parametrize("flag", ["-I", "-S", "-E"])
def test_a_python_that_skips_the_hook_proves_nothing(tmp_path: Path, flag: str) -> None:
    guarded = prove([PYTHON, flag, "-c", "print(1)"])
    assert guarded.witness("W1").state is WitnessState.UNAVAILABLE
    assert str(guarded.verdict.outcome) == "unknown"


def test_the_trainer_of_transformers_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    text = """
import torch, transformers
config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32, n_positions=16)
model = transformers.GPT2LMHeadModel(config)
data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
arguments = transformers.TrainingArguments(
    output_dir="out", max_steps=6, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no")
transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
"""
    records, _ = run_hooked(tmp_path, [script(tmp_path, text)])
    assert records[-1]["steps"] == 6
