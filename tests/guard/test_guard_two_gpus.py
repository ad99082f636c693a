"""Two real GPUs: which of them trained is told by UUID, and the worst of several ranks decides.

Run as ``test_guard_gpu.py`` says, on a machine with two GPUs or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.ranks import ranks
from ongpu.machine.nvml import RealNvml
from tests.guard.guard_harness import PYTHON, Guarded, environment, prove, script
from tests.guard.test_guard_gpu import LOAD, MODEL, proven, refuted, report
from tests.guard.test_guard_trace_gpu import IDLE_TENSORS, digest, keep

pytestmark = pytest.mark.gpu

RANKS = (
    MODEL
    + """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
backend, places = sys.argv[1], sys.argv[2:]
dist.init_process_group(backend)
place = places[dist.get_rank()]
if place.startswith("cuda"): torch.cuda.set_device(place)
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)]).to(place)
model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters())
for step in range(150):
    optimizer.zero_grad(); model(torch.randn(64, 1024, device=place)).pow(2).mean().backward(); optimizer.step()
    time.sleep(0.01)
dist.barrier(); dist.destroy_process_group()
"""
)


@pytest.fixture(scope="module", autouse=True)
def uuids() -> list[str]:
    """The UUIDs of the GPUs in NVML's order; without a second one there is nothing to ask."""
    found = [one.uuid for one in RealNvml().devices()]
    if len(found) < 2:
        pytest.skip(f"{len(found)} GPU here, two are needed")
    return found


def run(folder: Path, text: str, **changes: Any) -> Guarded:
    settings = {"baseline_s": 0.5, "trace_steps": 3, "cwd": folder, "log_path": folder / "log.txt", **changes}
    guarded = prove([PYTHON, script(folder, text)], **settings)
    keep(folder.name, guarded)
    return guarded


def launch(folder: Path, *words: str) -> Guarded:
    """Two ranks under torchrun."""
    launcher = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, script(folder, RANKS), *words]
    # NVLink multicast is not to be had in every container; nothing here needs it.
    guarded = prove(
        command,
        baseline_s=0.5,
        trace_steps=3,
        cwd=folder,
        log_path=folder / "log.txt",
        environment=environment(NCCL_NVLS_ENABLE="0"),
    )
    keep(folder.name, guarded)
    return guarded


def trained_on(guarded: Guarded) -> list[tuple[int | None, tuple[str, ...]]]:
    return [(one.rank, one.devices) for one in ranks(guarded.memory.observations)]


@pytest.mark.parametrize("order", ["0,1", "1,0"])
def test_the_first_visible_gpu_is_named_by_its_uuid(tmp_path: Path, uuids: list[str], order: str) -> None:
    mine = uuids[int(order[0])]
    visible = environment(CUDA_VISIBLE_DEVICES=order, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    guarded = run(tmp_path, MODEL + "train('cuda:0', seconds=1.5)", environment=visible, expect_gpu=mine)
    proven(guarded)
    assert trained_on(guarded) == [(None, (mine,))]
    assert [one["uuid"] for one in digest(guarded)["on_devices"]] == [mine]


def test_the_other_gpu_was_expected(tmp_path: Path, uuids: list[str]) -> None:
    guarded = run(tmp_path, MODEL + "train('cuda:1', seconds=1.5)", expect_gpu=uuids[0])
    told = report(guarded)
    assert guarded.verdict.outcome == "refuted", told
    assert (guarded.claim("expected-gpu"), guarded.claim("trained-on-gpu")) == ("refuted", "proven"), told


def test_the_expected_gpu_is_busy_with_another_program(tmp_path: Path, uuids: list[str]) -> None:
    load = script(tmp_path, LOAD, "load.py")
    text = MODEL + (
        "import subprocess\n"
        f"load = subprocess.Popen([sys.executable, {load!r}], stdout=subprocess.PIPE)\n"
        "load.stdout.readline()\n"
        "train('cuda:1', seconds=1.5)\n"
        "load.kill(); load.wait(); load.stdout.close()\n"
    )
    guarded = run(tmp_path, text, expect_gpu=uuids[0])
    assert guarded.claim("expected-gpu") == "refuted", report(guarded)


def test_tensors_on_one_gpu_and_kernels_on_the_other(tmp_path: Path) -> None:
    text = 'import torch\nbusy = torch.randn(2048, 2048, device="cuda:1")\n' + IDLE_TENSORS.replace(
        "    optimizer.step()\n", "    busy @ busy\n    optimizer.step()\n"
    )
    guarded = run(tmp_path, text)
    told = report(guarded)
    assert guarded.witness("W2").state == "confirmed", told
    assert guarded.witness("W5").state == "contradicted", told
    assert guarded.verdict.outcome == "refuted", told


def test_one_model_over_both(tmp_path: Path, uuids: list[str]) -> None:
    text = """
import torch, time
first, second = torch.nn.Linear(2048, 2048).to("cuda:0"), torch.nn.Linear(2048, 2048).to("cuda:1")
optimizer = torch.optim.AdamW([*first.parameters(), *second.parameters()])
began = time.monotonic()
while time.monotonic() - began < 2:
    optimizer.zero_grad()
    second(first(torch.randn(64, 2048, device="cuda:0")).to("cuda:1")).pow(2).mean().backward()
    optimizer.step()
"""
    guarded = run(tmp_path, text)
    proven(guarded)
    assert trained_on(guarded) == [(None, tuple(sorted(uuids[:2])))]
    assert guarded.witness("W5").state == "confirmed", report(guarded)


def test_two_ranks_on_two_gpus(tmp_path: Path, uuids: list[str]) -> None:
    guarded = launch(tmp_path, "nccl", "cuda:0", "cuda:1")
    proven(guarded)
    assert {devices for _, devices in trained_on(guarded)} == {(uuids[0],), (uuids[1],)}
    assert [rank for rank, _ in trained_on(guarded)] == [0, 1]
    assert guarded.witness("W5").state == "confirmed", report(guarded)


def test_one_of_two_ranks_on_the_cpu(tmp_path: Path) -> None:
    guarded = launch(tmp_path, "gloo", "cuda:0", "cpu")
    refuted(guarded)
    assert "rank 1" in guarded.witness("W1").reason, report(guarded)
    assert [bool(one.against) for one in ranks(guarded.memory.observations)] == [False, True]


def test_both_ranks_on_one_gpu_are_told(tmp_path: Path, uuids: list[str]) -> None:
    """Proven, for both trained on a GPU; that it was the same one stands in the table."""
    guarded = launch(tmp_path, "gloo", "cuda:0", "cuda:0")
    proven(guarded)
    assert len({devices for _, devices in trained_on(guarded)}) == 1
