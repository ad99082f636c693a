"""Sealing: whole or not at all, once, and the verdict of the journal or none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ongpu.domain.verdict import Outcome, Verdict
from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence import dsse
from ongpu.evidence.check import Answer
from ongpu.evidence.journal import SystemClock
from ongpu.evidence.recompute import recompute
from ongpu.evidence.seal import recover, seal

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

SRC = Path(__file__).parents[2] / "src"


def again(folder: Path) -> Path:
    return recover(folder, clock=SystemClock(), boot_id="x", redact=lambda text: text)


def test_the_manifest_is_what_the_format_page_says(samples: Samples) -> None:
    value = json.loads((samples.bundle("a", signed=True) / "manifest.json").read_text())
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert [one["name"] for one in value["subject"]] == [
        "README.md",
        "env_info.txt",
        "journal.jsonl",
        "nvidia_smi.txt",
        "torch_cuda_check.txt",
        "training_log.txt",
    ]
    predicate = value["predicate"]
    assert set(predicate) == {
        "duration_us",
        "ended",
        "journal",
        "level",
        "nonce",
        "profile",
        "run_id",
        "signer",
        "simulated",
        "sizes",
        "started_us",
        "tool_version",
        "verdict",
    }
    assert (predicate["level"], predicate["signer"]["public_key"]) == ("A1", samples.signer.public)
    assert predicate["verdict"]["outcome"] == "proven"
    assert {"id": "trained-on-cuda", "outcome": "proven", "required": True} in predicate["verdict"]["claims"]


def test_a_better_verdict_than_the_journals_is_not_sealed(samples: Samples) -> None:
    folder, journal = samples.write("a", ended="interrupted")
    honest = recompute(journal.observations())
    assert honest.outcome is Outcome.UNKNOWN
    better = Verdict(outcome=Outcome.PROVEN, reason="", claims=honest.claims, witnesses=honest.witnesses)
    with pytest.raises(RefusedError, match="not the one the journal gives"):
        seal(folder, journal, verdict=better)
    assert not (folder / "manifest.json").exists()
    seal(folder, journal, verdict=honest)
    assert samples.check(folder).answer is Answer.ACCEPTED


def test_sealing_happens_once(samples: Samples) -> None:
    folder = samples.bundle("a")
    _, journal = samples.write("b")
    verdict = recompute(journal.observations())
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(RefusedError, match="sealed already"):
        seal(folder, journal, verdict=verdict)
    assert (folder / "manifest.json").read_bytes() == before
    with pytest.raises(UsageError, match="sealed already"):
        again(folder)
    journal.close()


@pytest.mark.parametrize(
    "put",
    [
        lambda folder: (folder / "link").symlink_to("/etc/passwd"),
        lambda folder: os.mkfifo(folder / "pipe"),
        lambda folder: (folder / ".hidden").write_text("x"),
        lambda folder: (folder / "ENV_INFO.TXT").write_text("x"),
    ],
)
def test_what_a_child_put_there_is_not_sealed_over(samples: Samples, put: Callable[[Path], object]) -> None:
    folder, journal = samples.write("a")
    put(folder)
    with pytest.raises(RefusedError, match="cannot be sealed") as caught:
        seal(folder, journal, verdict=recompute(journal.observations()))
    assert "recover" in caught.value.next_step
    assert not (folder / "manifest.json").exists()


# Fault 41: the child edits the journal while the run goes on.
def test_a_journal_edited_under_the_supervisor_is_not_sealed(samples: Samples) -> None:
    folder, journal = samples.write("a")
    verdict = recompute(journal.observations())
    path = folder / "journal.jsonl"
    before = path.read_bytes()
    last = before.splitlines(keepends=True)[-1]
    for edited in (
        before.replace(b'"status":0', b'"status":1'),
        before.replace(b'"end":"completed"', b'"end":"completee"'),
        before.removesuffix(last),
        before + b"{}",
        b"",
    ):
        assert edited != before
        path.write_bytes(edited)
        with pytest.raises(RefusedError, match="changed from outside"):
            seal(folder, journal, verdict=verdict)
        assert not (folder / "manifest.json").exists()


# C49: the disk fills up at the seal, at each of the calls that can say so.
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_at_the_seal(samples: Samples, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    folder, journal = samples.write("a")
    verdict = recompute(journal.observations())
    fired: list[str] = []

    def full(*_args: object, **_more: object) -> object:
        fired.append(call)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(Path, "replace", full)
        else:
            patch.setattr(os, call, full)
        with pytest.raises(WorkError, match="No space") as caught:
            seal(folder, journal, verdict=verdict, signer=samples.signer)
    assert fired
    assert caught.value.next_step
    assert not (folder / "manifest.json").exists()
    assert samples.check(folder).answer is Answer.REFUSED
    again(folder)
    report = samples.check(folder)
    assert (report.answer, report.outcome) == (Answer.ACCEPTED, Outcome.UNKNOWN)


SEALER = """
import os, sys, time
from pathlib import Path
from ongpu.evidence import seal as room
from ongpu.evidence.journal import Journal, SystemClock
from ongpu.evidence.recompute import recompute
folder = Path(sys.argv[1])
journal = Journal.create(folder, clock=SystemClock(), redact=lambda text: text)
start = room.new_start(profile="run", simulated=False, tool_version="0", boot_id="x")
journal.record("run.start", start)
journal.record("run.end", {"end": "completed", "observations": 1})
(folder / "README.md").write_text(start["run_id"])
real = os.fsync
def slow(fd):
    print("syncing", flush=True)
    time.sleep(0.2)
    real(fd)
os.fsync = slow
room.seal(folder, journal, verdict=recompute(journal.observations()))
"""


# C45 to C47: interrupted or killed at each moment of the seal.
@pytest.mark.process
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_killed_during_the_seal(samples: Samples, sent: signal.Signals, moment: int) -> None:
    folder = samples.root / "killed"
    child = subprocess.Popen([sys.executable, "-c", SEALER, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    with child:
        for _ in range(moment):
            assert child.stdout.readline() == b"syncing\n"
        time.sleep(0.05)
        child.send_signal(sent)
        assert child.wait() != 0, "the fault must have fired"
    report = samples.check(folder)
    if (folder / "manifest.json").exists():
        assert report.answer is Answer.ACCEPTED
    else:
        assert [one.obligation for one in report.problems][-1] in {2, 7}
        again(folder)
        report = samples.check(folder)
        assert report.answer is Answer.ACCEPTED
    assert report.outcome is not Outcome.PROVEN


def test_keys_of_other_kinds_are_refused() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for bad in (b"", b"junk", other):
        with pytest.raises(UsageError, match="Ed25519") as caught:
            dsse.Signer(bad)
        assert "keygen" in caught.value.next_step


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    # The example of the DSSE protocol page: lengths in bytes, in decimal.
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert dsse.pae("\u00e4", b"") == b"DSSEv1 2 \xc3\xa4 0 "


CHECKER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ongpu.evidence.check import check
from ongpu.evidence.show import render
report = check(Path(sys.argv[2]))
ours = sorted(name for name in sys.modules if name.startswith("ongpu."))
assert all(name.startswith(("ongpu.evidence", "ongpu.domain", "ongpu.errors")) for name in ours), ours
assert not {"subprocess", "socket", "pickle", "yaml", "ctypes", "torch", "msgspec"} & set(sys.modules)
sys.stdout.write(render(report))
sys.exit(report.exit_status)
"""


@pytest.mark.process
@pytest.mark.parametrize("signed", [False, True])
def test_the_checker_needs_the_standard_library_alone(samples: Samples, *, signed: bool) -> None:
    folder = samples.bundle("a", signed=signed)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", CHECKER, SRC, folder], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Level A0" in done.stdout
    assert ("The signature was not checked" in done.stdout) == signed
