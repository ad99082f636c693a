"""``ongpu diagnose`` as people type it: a pasted log, a blocked bundle, the text of an issue without secrets."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import jsonschema
import pytest

from ongpu.explain import BundleCase, explain, read_case
from ongpu.report.diagnosis import diagnose_document
from ongpu.report.issue_text import foreign, issue_text
from tests.cli.cli_harness import ongpu
from tools.write_contracts import SCHEMAS

_TOO_OLD = """PyTorch version: 2.14.1+cu130
GPU 0: NVIDIA A100-SXM4-80GB
| NVIDIA-SMI 550.144.03     Driver Version: 550.144.03     CUDA Version: 12.4 |
export HF_TOKEN=abcdef12345
UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 12040).
"""


@pytest.mark.process
def test_a_log_is_put_to_the_planner_and_what_is_at_odds_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(_TOO_OLD)
    ran = ongpu(["diagnose", "a.log"], cwd=tmp_path)
    assert ran.status == 0
    assert "Cause: driver-too-old" in ran.out
    assert "at odds: driver: cu130 needs driver 580" in ran.out
    assert re.search(r"fits what the log names: uv pip install torch==", ran.out.replace("\n", " "))
    document = ongpu(["diagnose", "a.log", "--json"], cwd=tmp_path).document()
    jsonschema.validate(document, json.loads((SCHEMAS / "diagnose.json").read_text("utf-8")))
    assert (document["cause"], document["source"]) == ("driver-too-old", "a.log")
    assert [one["cause"] for one in document["at_odds"]] == ["driver-too-old"]
    assert document["advised"]["command"][:3] == ["uv", "pip", "install"]
    assert document["findings"][0]["line"] == 5
    assert document["next_step"] and document["rejected"] == []


@pytest.mark.process
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_a_blocked_bundle_becomes_the_text_of_an_issue(tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    assert ongpu(["enable"], cwd=tmp_path, variables={"MY_TOKEN": secret}).status == 3
    bundle = str(tmp_path / "ongpu_runs" / "enable")
    document = ongpu(["diagnose", bundle, "--json"], cwd=tmp_path).document()
    jsonschema.validate(document, json.loads((SCHEMAS / "diagnose.json").read_text("utf-8")))
    assert (document["cause"], document["block"]["phase"]) == ("no-gpu-visible", "probe")
    assert document["next_step"] == document["block"]["next_step"]
    page = (tmp_path / "ongpu_runs" / "enable" / "blocked.txt").read_text().splitlines()
    assert all(one["text"] in page[one["line"] - 1] for one in document["findings"])
    folder = tmp_path / "ongpu_runs" / "enable" / "blocked"
    cause = json.loads((folder / "cause.json").read_text("utf-8"))
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    assert (cause["schema"], cause["cause"], cause["phase"], cause["done"]) == (
        "ongpu/blocked/1",
        "no-gpu-visible",
        "probe",
        [],
    )
    assert cause["not_tried"] and cause["lines"] and "run_id" not in cause
    assert environment["machine"]["devices"] == [] and environment["not_read"] == ["environment", "torch"]
    assert secret not in "".join(one.read_text("utf-8") for one in folder.iterdir())
    assert ongpu(["evidence", "check", bundle], cwd=tmp_path).status == 0
    ran = ongpu(["diagnose", bundle, "--markdown"], cwd=tmp_path, variables={"MY_TOKEN": secret})
    assert (folder / "report.md").read_text("utf-8") == ran.out
    assert ran.status == 0
    assert ran.out.startswith("# no-gpu-visible in phase probe: ")
    for part in ("## Not tried, and why", "train, compare: not reached", "## Environment", "**Next:**", "run `"):
        assert part in ran.out
    assert secret not in ran.out and str(tmp_path) not in ran.out


@pytest.mark.process
def test_a_zip_of_a_bundle_is_read_as_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    _bundle(folder, "step 1\nRuntimeError: CUDA error: an illegal memory access was encountered\n")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"one/{path.name}")
    of_zip = ongpu(["diagnose", "one.zip", "--json"], cwd=tmp_path).document()
    assert of_zip == ongpu(["diagnose", "one", "--json"], cwd=tmp_path).document()
    assert (of_zip["cause"], of_zip["source"]) == ("program-error", "training_log.txt")
    page = ongpu(["diagnose", "one.zip", "--markdown"], cwd=tmp_path).out
    assert "an illegal memory access" in page and "never sealed" in page


@pytest.mark.process
@pytest.mark.parametrize(
    ("member", "message"), [("training_log.txt", "holds no journal.jsonl"), ("../x", "plain name")]
)
def test_a_zip_that_is_no_bundle_is_one_message(member: str, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "step 1 loss 2\n")
    ran = ongpu(["diagnose", "a.zip"], cwd=tmp_path)
    assert (ran.status, message in ran.err, "Next: Unpack it" in ran.err) == (2, True, True)


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "message"),
    [(["."], "is no bundle"), (["a.log", "--json", "--markdown"], "two forms"), (["no.log"], "cannot be read")],
)
def test_bad_input_is_one_message_with_a_next_step(words: list[str], message: str, tmp_path: Path) -> None:
    ran = ongpu(["diagnose", *words], cwd=tmp_path)
    assert ran.status == 2
    assert message in ran.err and ran.err.splitlines()[-1].startswith("Next: ")


def _bundle(folder: Path, log: str) -> BundleCase:
    (folder / "journal.jsonl").write_bytes(b"")
    (folder / "training_log.txt").write_text(log)
    return read_case(folder)


def test_an_unsealed_bundle_with_a_log_alone_is_read(tmp_path: Path) -> None:
    case = _bundle(tmp_path, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. ```\n")
    assert (case.told.diagnosis.cause.value, case.log, case.block) == ("out-of-memory", "training_log.txt", None)
    text = issue_text(
        diagnose_document(case.told, source=case.log, case=case), redact=lambda one: one, version="0", case=case
    )
    assert "never sealed" in text
    assert text.count("\n````\n") == 2, "a fence of the log's own must not end ours"


def test_a_changed_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"seq": 1}\n')
    from ongpu.errors import UsageError

    with pytest.raises(UsageError, match="was changed, or is no bundle"):
        read_case(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("export HF_TOKEN=hunter2hunter2", "export HF_TOKEN=<redacted>"),
        ("WANDB_API_KEY: 0123456789abcdef", "WANDB_API_KEY: <redacted>"),
        ("password='s3cret-word'", "password='<redacted>'"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer <redacted>"),
        ('File "/home/alice/train.py"', 'File "/home/<user>/train.py"'),
        (r'File "C:\Users\Jan Hammer\x.py"', r'File "C:\Users\<user>\x.py"'),
        ("mail bob.k@example.org now", "mail <email> now"),
        ("(venv) bob@gpu07:~/x$ python t.py", "(venv) <user>@<host>:~/x$ python t.py"),
        ("NCCL INFO eth0:10.20.30.40<0>", "NCCL INFO eth0:<address><0>"),
        ("uuid GPU-660d987e-5b28-3bf6-2a2d-1d5ecae7f6df", "uuid <gpu-uuid>"),
        ("cuDNN 8.9.2.26, driver 550.54.15", "cuDNN 8.9.2.26, driver 550.54.15"),
        ("tokens: 4096 per second", "tokens: 4096 per second"),
        ("tokenizer_class=LlamaTokenizer", "tokenizer_class=LlamaTokenizer"),
        ("max_new_tokens=1048576", "max_new_tokens=1048576"),
    ],
)
def test_what_another_machines_log_may_hold_is_removed(text: str, shown: str) -> None:
    assert foreign(text) == shown


def test_the_issue_of_a_log_says_what_it_names() -> None:
    told = explain(_TOO_OLD.encode())
    text = issue_text(diagnose_document(told, source="a.log"), redact=lambda one: one, version="0")
    assert text.startswith("# driver-too-old: ")
    assert "NVIDIA A100-SXM4-80GB" in text and "abcdef12345" not in text
