"""Sample bundles, made by the real journal and the real seal from a journal of a small pretended run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.verdict import Claim, Outcome, Verdict, Witness, WitnessState
from ongpu.domain.witness import Observation
from ongpu.evidence import challenge
from ongpu.evidence.chain import GENESIS, link, scan_journal
from ongpu.evidence.check import CheckReport, check
from ongpu.evidence.dsse import Signer, generate
from ongpu.evidence.journal import Journal
from ongpu.evidence.seal import new_start, seal
from ongpu.evidence.statement import FileDigest, capped, render
from ongpu.evidence.trust import Level, TrustedKey

GIB = 1 << 30


@dataclass
class FakeClock:
    """A clock that a test moves; every reading takes a millisecond."""

    wall: float = 1_763_800_000.0
    mono: float = 5_000.0

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
        self.wall += seconds
        self.mono += seconds


def stand_in_judge(observations: Sequence[Observation]) -> Verdict:
    """A judge as strict as the real one is about presence: every reading it needs must be there."""
    steps = [one for one in observations if one.kind == "hook" and one.data.get("device") == "cuda"]
    samples = [one for one in observations if one.kind == "nvml.sample"]
    exits = [one for one in observations if one.kind == "child.exit" and one.data.get("status") == 0]
    files = [one for one in observations if one.kind == "files"]

    def claim(name: str, found: list[Observation], needed: int) -> Claim:
        outcome = Outcome.PROVEN if len(found) >= needed else Outcome.UNKNOWN
        numbers = tuple(one.seq for one in found)
        return Claim(id=name, statement=f"{name} holds", outcome=outcome, reason="seen", observations=numbers)

    claims = (
        claim("trained-on-cuda", steps, 5),
        claim("memory-allocated", samples, 4),
        claim("no-silent-cpu", exits, 1),
        claim("evidence-saved", files, 1),
    )
    proven = all(one.outcome is Outcome.PROVEN for one in claims)
    state = WitnessState.CONFIRMED if steps else WitnessState.UNAVAILABLE
    verdict = Verdict(
        outcome=Outcome.PROVEN if proven else Outcome.UNKNOWN,
        reason="all of it was seen" if proven else "something was not seen",
        claims=claims,
        witnesses=(Witness(name="W1", title="inside", state=state, level="process", reason="steps"),),
        level="process",
    )
    return capped(verdict, observations)


@dataclass
class Samples:
    """Makes bundles below a folder of its own."""

    root: Path
    judge: Callable[[Sequence[Observation]], Verdict] = stand_in_judge
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
        how: str = "completed",
        status: int = 0,
        more: Mapping[str, str] | None = None,
    ) -> tuple[Path, Journal]:
        """Everything of a run but its seal."""
        folder = self.root / name
        rng = random.Random(seed)
        clock = FakeClock(wall=1_763_800_000.0 + 1000 * seed, mono=5_000.0 + 10 * seed)
        journal = Journal.create(folder, clock=clock, redact=lambda text: text)
        uuid = f"GPU-{rng.getrandbits(32):08x}-0000-4000-8000-{rng.getrandbits(48):012x}"
        driver = f"580.{rng.randrange(60, 200)}.04"
        pid = rng.randrange(1000, 30000)
        salt = f"{rng.getrandbits(128):032x}"
        run_id = challenge.run_id(salt=salt, nonce=nonce)
        argv = ["python", "train.py", "--device", "cuda"]
        if nonce is not None:
            argv += ["--seed", str(challenge.seed(nonce))]
        start = new_start(
            run_id=run_id,
            run_salt=salt,
            profile="enable",
            simulated=simulated,
            tool_version="0.1.0",
            boot_id=f"{rng.getrandbits(32):08x}-1111-4111-8111-{rng.getrandbits(48):012x}",
            nonce=nonce,
            more={"argv": ["ongpu", "enable"], "expect_gpu": None},
        )
        journal.record("run.start", start)
        device = {"name": "NVIDIA H100 80GB HBM3", "uuid": uuid, "memory_bytes": 80 * GIB}
        journal.record("machine", {"os": "linux", "devices": [device], "driver": {"kernel_mode": driver}})
        journal.record("baseline", {"devices": [{"uuid": uuid, "used_bytes": 0}]})
        journal.record("child.start", {"role": "train", "argv": argv, "pid": pid, "start_time": 12.5})
        journal.record("tree", {"role": "train", "processes": [{"pid": pid, "ppid": 1, "start_time": 12.5}]})
        for step in range(1, 6):
            clock.advance(0.2)
            journal.record(
                "hook",
                {"role": "train", "pid": pid, "step": step, "device": "cuda", "uuid": uuid, "t_mono": clock.mono},
            )
            used = (518 + 40 * step) << 20
            processes = [{"pid": pid, "used_bytes": used}]
            journal.record(
                "nvml.sample",
                {"role": "train", "devices": [{"uuid": uuid, "used_bytes": used, "processes": processes}]},
            )
        files = {
            "env_info.txt": f"driver {driver}\n",
            "torch_cuda_check.txt": f"{uuid}\n",
            "training_log.txt": f"Using device: cuda\nstep 1 loss {rng.random():.4f}\n",
            "nvidia_smi.txt": f"| Driver Version: {driver}   CUDA Version: 13.0 |\n| {pid} python {uuid} |\n",
        }
        for file, text in files.items():
            (folder / file).write_text(text, "utf-8")
        journal.record("child.exit", {"role": "train", "status": status, "signal": None})
        listed = [
            {"name": file, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for file, data in ((file, (folder / file).read_bytes()) for file in files)
        ]
        journal.record("files", {"files": listed})
        journal.record("run.end", {"how": how})
        verdict = self.judge(journal.observations())
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
        how: str = "completed",
        signed: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> Path:
        """A sealed bundle."""
        folder, journal = self.write(name, seed=seed, simulated=simulated, nonce=nonce, how=how, more=more)
        verdict = self.judge(journal.observations())
        seal(folder, journal, verdict=verdict, signer=self.signer if signed else None, judge=self.judge)
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
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        manifest = render(
            observations=observations,
            head=head,
            files={name: digest_of(path.read_bytes()) for name, path in paths.items()},
            verdict=self.judge(observations),
            signer=None,
        )
        (folder / "manifest.json").write_bytes(manifest)

    def copy(self, bundle: Path, name: str) -> Path:
        """A copy to spoil."""
        return Path(shutil.copytree(bundle, self.root / name))

    def check(self, path: Path, **options: object) -> CheckReport:
        """A check with the judge that sealed."""
        return check(path, judge=self.judge, **options)  # type: ignore[arg-type] # the tests pass what check takes


def digest_of(data: bytes) -> FileDigest:
    """The digest of a file's bytes."""
    return FileDigest(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Where a test makes its bundles."""
    return Samples(root=tmp_path)
