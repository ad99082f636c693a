"""Sample bundles, made by the real journal and the real seal from a journal of a small pretended run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.verdict import Outcome, Verdict
from ongpu.evidence import challenge
from ongpu.evidence.chain import GENESIS, link, scan_journal
from ongpu.evidence.check import CheckReport, check
from ongpu.evidence.dsse import Signer, generate
from ongpu.evidence.journal import Journal
from ongpu.evidence.recompute import recompute
from ongpu.evidence.seal import new_start, seal
from ongpu.evidence.statement import FileDigest, render
from ongpu.evidence.trust import Level, TrustedKey

GIB = 1 << 30


@dataclass
class FakeClock:
    """A clock that a test moves; every reading takes a millisecond."""

    wall: float = 1_763_800_000.0
    mono: float = 5_000.0
    jumps: list[float] = field(default_factory=list)

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return self.wall

    def mono_s(self) -> float:
        """Seconds, a millisecond later each time."""
        self.wall += 0.001
        self.mono += 0.001
        return self.mono

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds + (self.jumps.pop() if self.jumps else 0.0)
        self.mono += seconds


@dataclass
class _Run:
    """One small run, told record by record as the guard tells it."""

    journal: Journal
    clock: FakeClock
    rng: random.Random
    ended: str
    lines: int = 0

    def uuid4(self) -> str:
        return f"{self.rng.getrandbits(32):08x}-0000-4000-8000-{self.rng.getrandbits(48):012x}"

    def sampler(self, kind: str, data: dict[str, object]) -> None:
        """A line of the sampler, numbered as it numbers them."""
        self.journal.record(kind, {"role": "train", "n": self.lines, "t_mono": self.clock.mono, **data})
        self.lines += 1

    def write(self, *, simulated: bool, nonce: str | None, status: int) -> None:
        """Everything from run.start to run.end, and the four raw files."""
        rng, record = self.rng, self.journal.record
        uuid, driver, pid = f"GPU-{self.uuid4()}", f"580.{rng.randrange(60, 200)}.04", rng.randrange(1000, 30000)
        argv = ["python", "train.py", "--device", "cuda"]
        if nonce is not None:
            argv += ["--seed", str(challenge.seed(nonce))]
        more = {"argv": ["ongpu", "enable"], "expect_gpu": None, "compare_cpu": False, "requested_device": "cuda"}
        start = new_start(
            profile="enable",
            simulated=simulated,
            tool_version="0.1.0",
            boot_id=self.uuid4(),
            nonce=nonce,
            run_salt=f"{rng.getrandbits(128):032x}",
            more=more,
        )
        record("run.start", start)
        device = {"name": "NVIDIA H100 80GB HBM3", "uuid": uuid, "memory_bytes": 80 * GIB}
        record("machine", {"os": "linux", "devices": [device], "driver": {"kernel_mode": driver}, "simulated": False})
        record("smoke", {"name": "torch_cuda_check", "outcome": "proven", "figures": {"is_available": True}})
        idle = {"memory_used_bytes": 0, "processes": [], "energy_start_mj": 0, "energy_end_mj": 70_000}
        self.sampler("baseline", {"devices": [{**device, **idle, "energy_seconds": 1.0}]})
        record("child.start", {"role": "train", "argv": argv, "pid": pid, "start_time": 12.5})
        self.sampler("tree", {"processes": [{"pid": pid, "ppid": 1, "start_time": 12.5}]})
        self.hook(uuid, pid)
        self.sampler("sampler.end", {})
        record("child.exit", {"role": "train", "status": status, "signal": None, "interrupted": False})
        hooks = [{"source": "one.jsonl", "records": 7}]
        ends = {"sampler_lines": self.lines, "sampler_error": None, "hook_files_refused": 0}
        record("guard.end", {"role": "train", "hooks": hooks, **ends})
        files = {
            "env_info.txt": f"driver {driver}\n",
            "torch_cuda_check.txt": f"{uuid}\n",
            "training_log.txt": f"Using device: cuda\nstep 1 loss {rng.random():.4f}\n",
            "nvidia_smi.txt": f"| Driver Version: {driver}   CUDA Version: 13.0 |\n| {pid} python {uuid} |\n",
        }
        listed = []
        for name, text in files.items():
            (self.journal.folder / name).write_text(text, "utf-8")
            digest = digest_of(text.encode())
            listed.append({"name": name, "size_bytes": digest.size_bytes, "sha256": digest.sha256})
        record("files", {"files": listed})
        record("run.end", {"end": self.ended, "observations": self.journal.length})

    def hook(self, uuid: str, pid: int) -> None:
        """What the process says, with the driver's readings between."""
        numbers = iter(range(99))

        def say(kind: str, data: dict[str, object]) -> None:
            head = {"role": "train", "source": "one.jsonl", "n": next(numbers), "pid": pid, "record": kind}
            self.journal.record("hook", {**head, "t_mono": self.clock.mono, **data})

        say("torch", {"start_time": 12.5, "version": "2.14.1+cu128", "cuda": "12.8", "rank": None, "world_size": None})
        for step in range(1, 6):
            held = (40 * step) << 20
            size = {"cuda:0": 1 << 20}
            devices = [
                {"device": "cuda:0", "uuid": uuid}
                | dict.fromkeys(("allocated_bytes", "reserved_bytes", "max_reserved_bytes"), held)
            ]
            tensors = {"parameters": size, "gradients": size, "state": size, "devices": devices}
            say("step", {"optimizer": 0, "optimizer_step": step, "final": step == 5, **tensors})
            if step == 5:
                break
            self.clock.advance(0.2)
            used = held + (518 << 20)
            sample = {"uuid": uuid, "memory_used_bytes": used, "processes": [{"pid": pid, "used_bytes": used}]}
            self.sampler("nvml.sample", {"devices": [sample]})
            self.sampler("energy", {"devices": [{"uuid": uuid, "energy_mj": 100_000 * step}]})
        last = {"step": 5} | dict.fromkeys(("parameters_on_cuda", "parameters", "gradients_on_cuda", "gradients"), 10)
        counted = {"optimizer": 0, "steps": 5, "off_cuda_steps": 0, "last": last}
        counts = {"steps": 5, "created": 1, "never_stepped": 0, "records": 7, "optimizers": [counted]}
        say("end", {**counts, "cuda_initialized": True, "is_available": True})


@dataclass
class Samples:
    """Makes bundles below a folder of its own."""

    root: Path
    signer: Signer = field(default_factory=lambda: Signer(generate().private_pem))

    @property
    def trust(self) -> TrustedKey:
        """The key that signs the samples, trusted as a runner's."""
        return TrustedKey(public=self.signer.public, level=Level.A1, name="the samples")

    def write(
        self,
        name: str,
        *,
        seed: int = 1,
        simulated: bool = False,
        nonce: str | None = None,
        ended: str = "completed",
        status: int = 0,
        more: Mapping[str, str] | None = None,
        clock_jumps_s: tuple[float, ...] = (),
        redact: Callable[[str], str] = str,
    ) -> tuple[Path, Journal]:
        """Everything of a run but its seal."""
        folder = self.root / name
        clock = FakeClock(wall=1_763_800_000.0 + 1000 * seed, mono=5_000.0 + 10 * seed, jumps=list(clock_jumps_s))
        journal = Journal.create(folder, clock=clock, redact=redact)
        _Run(journal=journal, clock=clock, rng=random.Random(seed), ended=ended).write(
            simulated=simulated, nonce=nonce, status=status
        )
        verdict = recompute(journal.observations())
        run_id = journal.observations()[0].data["run_id"]
        (folder / "README.md").write_text(f"# Run {run_id}\n\n{verdict.outcome}\n", "utf-8")
        for file, text in (more or {}).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, "utf-8")
        return folder, journal

    def bundle(
        self,
        name: str,
        *,
        seed: int = 1,
        simulated: bool = False,
        nonce: str | None = None,
        ended: str = "completed",
        signed: bool = False,
        more: Mapping[str, str] | None = None,
        redact: Callable[[str], str] = str,
    ) -> Path:
        """A sealed bundle."""
        folder, journal = self.write(
            name, seed=seed, simulated=simulated, nonce=nonce, ended=ended, more=more, redact=redact
        )
        verdict = recompute(journal.observations())
        seal(folder, journal, verdict=verdict, signer=self.signer if signed else None)
        return folder

    def forge(self, folder: Path, edit: Callable[[list[dict[str, Any]]], None] = lambda _records: None) -> None:
        """What a forger of an unsigned bundle does: edit the records, chain them again, write the manifest again."""
        journal = folder / "journal.jsonl"
        records = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
        edit(records)
        head, lines = GENESIS, []
        for seq, record in enumerate(records):
            line = json.dumps(record | {"seq": seq, "prev": head}, separators=(",", ":")).encode()
            lines.append(line + b"\n")
            head = link(head, line)
        journal.write_bytes(b"".join(lines))
        observations = scan_journal(journal.read_bytes()).observations
        try:
            verdict = recompute(observations)
        except ValueError:
            verdict = Verdict(outcome=Outcome.PROVEN, reason="", claims=())
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        manifest = render(
            observations=observations,
            head=head,
            files={name: digest_of(path.read_bytes()) for name, path in paths.items()},
            verdict=verdict,
            signer=None,
        )
        (folder / "manifest.json").write_bytes(manifest)

    def copy(self, bundle: Path, name: str) -> Path:
        """A copy to spoil."""
        return Path(shutil.copytree(bundle, self.root / name))

    def check(self, path: Path, **options: object) -> CheckReport:
        """A check with the judge that sealed."""
        return check(path, **options)  # type: ignore[arg-type] # the tests pass what check takes


def digest_of(data: bytes) -> FileDigest:
    """The digest of a file's bytes."""
    return FileDigest(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Where a test makes its bundles."""
    return Samples(root=tmp_path)
