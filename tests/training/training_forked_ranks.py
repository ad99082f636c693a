"""Ranks as forks of one process that has imported everything, each with a fault of its own, for tests of checkpoints.

``python -m tests.training.training_forked_ranks PLAN``: the jobs of a stage run side by side. What a rank says is in
``NAME-RANK.txt``; the statuses are printed, negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.training.training_ranks_jobs import LOOPBACK, ROOT, Job, free_port

Fault = tuple[str, str, str]
"""An event of ``sys.addaudithook``, a part of its path, and what happens: ``full``, ``gone``, ``cut`` or ``kill``."""
_CUT_BYTES = 20_000
_FILE_BYTES = 40_000
IMPORTED_ONCE = (
    "torch._dynamo",
    "ongpu.training.assemble",
    "ongpu.training.sharded",
    "ongpu.training.sharded_checkpoint",
)


def start(
    folder: Path,
    stages: Sequence[Mapping[str, Job]],
    *,
    faults: Mapping[str, Mapping[int, Fault]],
    copies: Mapping[str, str],
    once: Sequence[str] = IMPORTED_ONCE,
) -> subprocess.Popen[str]:
    """Begin to run all jobs of a stage at once, one stage after the other.

    :param copies: for a job of a later stage, which folder of an earlier one it goes on in a copy of.
    :param once: what is imported before the forks; nothing that looks for a GPU, where there is one.
    """
    plan = [
        {
            name: (free_port(), [[*map(str, rank)] for rank in job], faults.get(name, {}), copies.get(name, ""))
            for name, job in stage.items()
        }
        for stage in stages
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.training_forked_ranks", json.dumps([once, plan])],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **LOOPBACK, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(started: subprocess.Popen[str]) -> dict[str, list[int]]:
    """The statuses of each job's ranks."""
    try:
        printed, errors = started.communicate(timeout=90)
    finally:
        started.kill()
    assert started.returncode == 0, errors
    statuses: dict[str, list[int]] = json.loads(printed)
    return statuses


def _fork(name: str, rank: int, port: int, job: Sequence[Sequence[str]], fault: Fault | None) -> int:
    from ongpu.training.main import main

    child = os.fork()
    if child:
        return child
    status = 99
    try:
        said = os.open(f"{name}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if len(job) > 1:
            place = {"WORLD_SIZE": len(job), "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ.update({"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in place.items()}})
        if fault:
            _arm(*fault)
        status = main(job[rank])
    finally:
        sys.stdout.flush()
        os._exit(status)


def _arm(event: str, where: str, what: str) -> None:
    """Let ``what`` happen the first time that ``event`` comes with ``where`` in its path."""
    fired: list[str] = []

    def hook(came: str, given: tuple[Any, ...]) -> None:
        came = f"open to {'read' if str(given[1]).startswith('r') else 'write'}" if came == "open" else came
        if came != event or fired or where not in str(given[0]):
            return
        fired.append(str(given[0]))
        os.write(1, f"FAULT {what} at {event} {given[0]}\n".encode())
        if what == "full":  # whatever is written to it: no space left on device
            Path(given[0]).symlink_to("/dev/full")
        elif what == "gone":
            Path(given[0]).unlink()
        elif what == "cut":  # the kernel ends the process in the middle of a write
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (_CUT_BYTES, _CUT_BYTES))
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _run_all(once: Sequence[str], plan: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    for name in once:
        module = importlib.import_module(name)
        if hasattr(module, "FILE_BYTES"):  # so that each rank writes several files
            vars(module)["FILE_BYTES"] = _FILE_BYTES
    statuses = {}
    for stage in plan:
        children = {}
        for name, (port, job, faults, copied) in stage.items():
            if copied:
                shutil.copytree(copied, name)
            children[name] = [_fork(name, rank, port, job, faults.get(str(rank))) for rank in range(len(job))]
        for name, pids in children.items():
            statuses[name] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return statuses


if __name__ == "__main__":
    print(json.dumps(_run_all(*json.loads(sys.argv[1]))))
