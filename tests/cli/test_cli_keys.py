"""Signing and challenging, as the two people type it: who runs, and who reviews."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ongpu.evidence.challenge import seed
from ongpu.evidence.dsse import Signer
from ongpu.evidence.trust import public_line
from tests.cli.cli_harness import ongpu
from tests.evidence.conftest import Samples

pytestmark = pytest.mark.process


def test_keygen_makes_a_pair_once_and_the_public_half_is_what_trust_reads(tmp_path: Path) -> None:
    made = ongpu(["keygen", "me.key", "--name", "Lab 4", "--json"], cwd=tmp_path)
    assert made.status == 0 and made.document()["public_key"]
    assert Signer((tmp_path / "me.key").read_bytes()).public == made.document()["public_key"]
    before = (tmp_path / "me.key").read_bytes()
    again = ongpu(["keygen", "me.key"], cwd=tmp_path)
    assert again.status == 2 and "Next: " in again.err
    assert (tmp_path / "me.key").read_bytes() == before
    checked = ongpu(["evidence", "check", "nothing", "--trust", "me.key.pub"], cwd=tmp_path)
    assert checked.status == 2 and "nothing does not exist" in checked.err, "the keys were read, the bundle is missing"


def test_a_challenge_is_one_line_on_stdout_and_new_each_time(tmp_path: Path) -> None:
    first, second = (ongpu(["challenge"], cwd=tmp_path) for _ in range(2))
    assert first.status == 0 and len(first.out.split()) == 1 and first.out != second.out
    assert f"--seed {seed(first.out.strip())}" in first.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ledger", "spent.txt"], "no nonce is asked for"),
        (["--trust", "missing.pub"], "cannot be read"),
        (["--trust", "bad.pub"], "Line 1 of the file of trusted keys"),
        (["--nonce", "yes"], "is not a nonce"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pub").write_bytes(b"\xff\x00")
    ran = ongpu(["evidence", "check", ".", *words, "--json"], cwd=tmp_path)
    assert ran.status == 2 and said in ran.err and "Next: " in ran.err
    assert json.loads(ran.out)["error"]["exit_status"] == 2
    assert not (tmp_path / "spent.txt").exists()


def test_report_draws_a_bundle_once_and_never_into_it(tmp_path: Path) -> None:
    Samples(root=tmp_path).bundle("one")
    made = ongpu(["report", "one", "--json"], cwd=tmp_path)
    assert made.status == 0 and made.document()["check"]["answer"] == "accepted"
    assert (tmp_path / "one.html").stat().st_size == made.document()["size_bytes"]
    for words, said in ((["one"], "exists"), (["one", "--output", "one/page.html"], "in the bundle")):
        ran = ongpu(["report", *words], cwd=tmp_path)
        assert ran.status == 2 and said in ran.err and "Next: " in ran.err
    (tmp_path / "one" / "more.txt").write_text("added", "utf-8")
    refused = ongpu(["report", "one", "--output", "refused.html"], cwd=tmp_path)
    assert refused.status == 1 and "not to be believed" in (tmp_path / "refused.html").read_text("utf-8")


def test_a_nonce_is_good_for_one_bundle(tmp_path: Path) -> None:
    samples, nonce = Samples(root=tmp_path), "ab" * 16
    (tmp_path / "keys").write_text(public_line(samples.signer.public, name="x"), "utf-8")
    for number, status in ((1, 0), (2, 1)):
        samples.bundle(f"b{number}", seed=number, nonce=nonce, signed=True)
        words = ["--trust", "keys", "--nonce", nonce, "--ledger", "spent", "--require", "A2"]
        for _ in range(2 if status == 0 else 1):
            ran = ongpu(["evidence", "check", f"b{number}", *words], cwd=tmp_path)
            assert ran.status == status, ran.err
    assert "Another bundle has answered" in ran.err


FAKETORCH = Path(__file__).parents[1] / "guard" / "faketorch"
# Three steps on the CPU in the pretended torch of the guard's tests: importing the real one takes seconds.
TRAINING = """
import torch
weights = [torch.Tensor(1 << 20, "cpu", requires_grad=True)]
optimizer = torch.optim.Optimizer(weights)
for _ in range(3):
    weights[0].grad = torch.Tensor(1 << 20, "cpu")
    optimizer.step()
"""


def test_a_run_is_signed_answers_its_nonce_and_has_its_negative_control(tmp_path: Path) -> None:
    ongpu(["keygen", "key"], cwd=tmp_path)
    (tmp_path / "train.py").write_text(TRAINING, "utf-8")
    nonce = ongpu(["challenge"], cwd=tmp_path).out.strip()
    words = ["run", "--evidence", "ev", "--sign", "key", "--nonce", nonce, "--negative-control", "--"]
    command = [sys.executable, "train.py"]
    refused = ongpu([*words, *command], cwd=tmp_path)
    assert refused.status == 2 and f"--seed {seed(nonce)}" in refused.err and not (tmp_path / "ev").exists()
    ran = ongpu([*words, *command, "--seed", str(seed(nonce))], cwd=tmp_path, variables={"PYTHONPATH": str(FAKETORCH)})
    assert ran.status == 1 and ran.out == "", ran.err
    control = next(line for line in ran.err.splitlines() if "negative-control" in line)
    assert control.split()[0] == "proven"
    assert (tmp_path / "ev" / "negative_control_log.txt").is_file()
    check = ["evidence", "check", "ev", "--trust", "key.pub", "--require", "A2", "--nonce"]
    assert ongpu([*check, nonce], cwd=tmp_path).status == 0
    assert ongpu([*check, "ab" * 16], cwd=tmp_path).status == 1
    assert ongpu(["evidence", "check", "ev", "--require", "A1"], cwd=tmp_path).status == 3, "trust is the verifier's"


@pytest.mark.parametrize("command", [["run"], ["enable"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sign", "missing"], "cannot be read"),
        (["--sign", "open"], "by others"),
        (["--nonce", "1"], "is not a nonce"),
    ],
)
def test_a_bad_key_or_nonce_is_refused_before_anything_runs(
    command: list[str], words: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "open").write_text("key", "utf-8")
    (tmp_path / "open").chmod(0o644)
    ran = ongpu([*command, *words, "--", sys.executable, "-c", "open('ran', 'w')"], cwd=tmp_path)
    assert ran.status == 2 and said in ran.err and "Next: " in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["open"]
