"""A whole ``ongpu run`` on a pretended machine, and what must hold after every fault that is done to it.

``ONGPU_FAULTS=1`` runs every fault, as ``benchmarks/faults.py`` does three times; without it the slow ones are left
out. ``ONGPU_FAULT_SEED`` draws moments and places.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from ongpu.errors import UsageError
from ongpu.evidence.check import Answer, check
from ongpu.evidence.journal import SystemClock
from ongpu.evidence.redact import Redactor
from ongpu.evidence.seal import recover
from ongpu.report.pages import BundlePages
from tests.guard.guard_harness import PYTHON

HERE = Path(__file__).parent
GUARD = HERE.parent / "guard"
ALL = os.environ.get("ONGPU_FAULTS") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow faults to the full pass."""
    slow = [item for item in items if item.get_closest_marker("slow_fault")] if not ALL else []
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a run ended."""

    status: int
    out: str
    err: str


@dataclass
class Pretended:
    """One pretended machine, for one test."""

    root: Path
    library: Path
    chance: random.Random
    mark: str
    secret: str
    environment: dict[str, str] = field(default_factory=dict)

    def variables(self, **more: str) -> dict[str, str]:
        """What the command is given: a driver, a torch, a secret, and the mark by which orphans are found."""
        made = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(GUARD / "faketorch"), os.environ.get("PYTHONPATH")))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "STANDIN_STATE": str(self.root / "state"),
            "STANDIN_FIRED": str(self.root / "fired"),
            "PRETENDED_MARK": self.mark,
            "PRETENDED_API_TOKEN": self.secret,
            **self.environment,
            **more,
        }
        return {name: value for name, value in made.items() if value}

    def training(self, how: str = "cuda", *, seconds: float = 1.0, code: str = "", at: int = 0) -> list[str]:
        """A training that tells its secret first, as programs do that print their environment.

        ``code`` is run in it at step ``at``; without one, at one that is drawn.
        """
        script = str(GUARD / "guard_fake_training.py")
        step = at or self.chance.randrange(2, 20)
        moment = ["env", f"PRETENDED_CODE={code}", f"PRETENDED_AT={step}"] if code else []
        told = ["sh", "-c", 'echo "token=$PRETENDED_API_TOKEN"; exec "$@"', "sh"]
        return [*moment, *told, PYTHON, script, how, f"{seconds:g}"]

    def argv(self, command: Sequence[str], *options: str, evidence: str = "ev") -> list[str]:
        """``ongpu run`` of that command."""
        return [PYTHON, str(HERE / "pretended_ongpu.py"), "run", "--evidence", evidence, *options, "--", *command]

    def run(
        self,
        command: Sequence[str],
        *options: str,
        evidence: str = "ev",
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run it to its end. ``before`` stands before the command line (``nohup``, a shell with limits)."""
        done = subprocess.run(
            [*before, *self.argv(command, *options, evidence=evidence)],
            cwd=self.root,
            env=self.variables(**(variables or {})),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        return Ran(status=done.returncode, out=done.stdout.decode("utf-8", "replace"), err=done.stderr.decode())

    def start(self, command: Sequence[str], *options: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start it, to be struck in the middle."""
        return subprocess.Popen(
            [*before, *self.argv(command, *options)],
            cwd=self.root,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def lines(self, name: str = "ev") -> int:
        """How many records the journal holds."""
        path = self.root / name / "journal.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def await_lines(self, count: int, running: subprocess.Popen[bytes]) -> None:
        """Wait until the journal has so many records, or the run has ended."""
        deadline = time.monotonic() + 30
        while self.lines() < count and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)

    def records(self, name: str = "ev") -> list[dict[str, object]]:
        """The journal as JSON."""
        lines = (self.root / name / "journal.jsonl").read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def outcome(self, name: str = "ev") -> str:
        """What a stranger finds: the bundle is intact, sealed by the run or recovered; and its outcome."""
        folder = self.root / name
        if not (folder / "manifest.json").exists():
            self.recover(folder)
            assert (folder / "README.md").exists()
        report = check(folder)
        assert report.answer is Answer.ACCEPTED, report.problems
        return report.outcome.value

    def recover(self, folder: Path) -> None:
        """Seal what is left. A child that was just being started holds the lock until it has begun: a moment."""
        redact, deadline = Redactor(self.variables()), time.monotonic() + 3
        while True:
            try:
                recover(
                    folder,
                    clock=SystemClock(),
                    boot_id="x",
                    redact=redact,
                    pages=partial(BundlePages().recovered, folder),
                )
                return
            except UsageError as error:
                if "still being written" not in error.message or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def honest(self) -> None:
        """What the faults are done to is proven without them."""
        ran = self.run(self.training(), evidence="honest")
        assert (ran.status, self.outcome("honest")) == (0, "proven"), ran.err

    def orphans(self) -> list[int]:
        """Processes of this run that are still alive."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(folder.name)
                if f"PRETENDED_MARK={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def told_secrets(self) -> list[str]:
        """Files of bundles that hold the secret, in any of the forms that are searched for."""
        forms = {self.secret, quote(self.secret, safe=""), self.secret.encode().hex()}
        wanted = [one.encode() for one in forms] + [base64.b64encode(self.secret.encode())[:-4]]
        bundles = {path.parent for path in self.root.rglob("journal.jsonl")}
        files = [path for bundle in bundles for path in bundle.rglob("*") if path.is_file() and not path.is_symlink()]
        return [str(path) for path in files if any(form in path.read_bytes() for form in wanted)]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in driver."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in driver with")
    folder = tmp_path_factory.mktemp("library")
    source, target = GUARD / "standin_guard.c", folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return folder


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """What draws the moment or the place of a fault."""
    return random.Random(f"{os.environ.get('ONGPU_FAULT_SEED', '0')} {request.node.name}")


@pytest.fixture
def pretended(tmp_path: Path, library: Path, chance: random.Random) -> Iterator[Pretended]:
    """A machine, and after the test: nothing of the run is alive, no file of a bundle holds the secret."""
    drawn = random.SystemRandom()
    mark, secret = f"{drawn.getrandbits(64):016x}", f"canary/{drawn.getrandbits(96):024x}+"
    machine = Pretended(root=tmp_path, library=library, chance=chance, mark=mark, secret=secret)
    yield machine
    deadline = time.monotonic() + 5
    while machine.orphans() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = machine.orphans()
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes of the run outlived it"
    assert not machine.told_secrets()
