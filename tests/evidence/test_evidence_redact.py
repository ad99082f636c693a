"""Secrets and identities: gone in every form they travel in; evidence that is neither stays as it was."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.errors import WorkError
from ongpu.evidence.redact import Identity, Redactor, pseudonym, recorded_variables, redact_file, redact_folder

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

CANARY = "c4n4ry/Value+with=odd&chars"


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_secret_in_every_form(offset: int) -> None:
    redact = Redactor({"MY_DATABASE": CANARY})
    pad = "u" * offset
    forms = [
        CANARY,
        f"--password={CANARY}",
        quote(CANARY, safe=""),
        quote_plus(CANARY),
        json.dumps({"x": CANARY}),
        json.dumps({"x": CANARY}).replace("/", "\\/"),
        repr([CANARY]),
        base64.b64encode(f"{pad}:{CANARY}:tail".encode()).decode(),
        base64.urlsafe_b64encode(f"{pad}{CANARY}".encode()).decode(),
        CANARY.encode().hex(),
        f"RuntimeError: could not connect to {CANARY!r}",
    ]
    for form in forms:
        told = redact(form)
        assert "<redacted:MY_DATABASE>" in told, form
        assert CANARY[3:20] not in told


# Built from pieces, so that no scanner of this repository takes them for real ones.
TOKENS = [
    "hf" + "_" + "A1b2C3d4E5f6G7h8I9j0K1l2",
    "ghp" + "_" + "a" * 36,
    "github" + "_pat_" + "A" * 40,
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "sk" + "-proj-" + "a1B2" * 8,
    "xoxb" + "-1234567890-abcdefghij",
    "glpat" + "-" + "x" * 20,
    "eyJ" + "hbGciOiJI" + "." + "eyJzdWIiOiIx" + "." + "c2lnbmF0dXJl",
    "-----BEGIN OPENSSH PRIVATE " + "KEY-----\nb3BlbnNzaC1rZXktdjE\nAAAA\n-----END OPENSSH PRIVATE " + "KEY-----",
    "-----BEGIN RSA PRIVATE " + "KEY-----\ncut short",
]


@pytest.mark.parametrize("token", TOKENS)
def test_texts_that_look_like_credentials(token: str) -> None:
    told = Redactor({})(f"before {token} after")
    assert "<redacted:" in told
    assert told.startswith("before ")
    assert not any(piece in told for piece in token.split("\n") if len(piece) > 10)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:pa55word@host.example/simple", "pa55word"),
        ("git+https://x-access-token-0123456789abcdef@host.example/r.git", "0123456789abcdef"),
        ("https://__token__:s3cr3t@pypi.example/simple --index-url", "s3cr3t"),
        ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
        ("machine h login me password hunter22", "hunter22"),
        ("https://b.example/o?X-Amz-Signature=" + "0f" * 32, "0f0f0f"),
        ("https://b.example/o?access_token=abcdef123456&x=1", "abcdef123456"),
    ],
)
def test_credentials_inside_addresses_and_files(text: str, secret: str) -> None:
    assert secret not in Redactor({})(text)


@pytest.mark.parametrize(
    "text",
    [
        "GPU-5d2a1a1c-0000-4000-8000-0123456789ab",
        "NVIDIA GeForce RTX 5090",
        "https://download.pytorch.org/whl/cu128",
        "torch==2.14.1+cu128 --hash=sha256:" + "0" * 64,
        "step 1 loss 3.1415 tokens/s 12345",
        "user@host:/path",
        "sk-learn is no key, hf_transfer is a package",
        "http://localhost:6006/?key=1",
    ],
)
def test_evidence_is_left_alone(text: str) -> None:
    harmless = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "GPU-5d2a1a1c-0000-4000-8000-0123456789ab"}
    assert Redactor(harmless)(text) == text


def test_which_variables_are_secrets() -> None:
    environment = {
        "SHORT": "abc",
        "HOME": "/home/somebody",
        "WORKSPACE_DIR": "/srv/workspace",
        "GPU_MODEL": "NVIDIA H100 80GB HBM3",
        "CUDA_API_TOKEN": "tokenvalue123",
        "UNKNOWN_THING": "whatever-it-is",
        "SECRET_FILE": "/srv/workspace/secret",
    }
    redact = Redactor(environment, public=["NVIDIA H100 80GB HBM3"], is_path=lambda value: value.startswith("/srv"))
    text = " ".join(environment.values())
    assert redact(text) == (
        "abc /home/somebody /srv/workspace NVIDIA H100 80GB HBM3 <redacted:CUDA_API_TOKEN> <redacted:UNKNOWN_THING>"
        " <redacted:SECRET_FILE>"
    )


def test_variables_are_recorded_from_an_allow_list() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO", "AWS_SECRET": "x", "CUDA_TOKEN": "x", "Z": "1"}
    assert recorded_variables(environment) == {
        "AWS_SECRET": None,
        "CUDA_TOKEN": None,
        "CUDA_VISIBLE_DEVICES": "0",
        "NCCL_DEBUG": "INFO",
        "Z": None,
    }


def test_identities_are_replaced_whole_and_stay_apart() -> None:
    uuid = "GPU-5d2a1a1c-0000-4000-8000-0123456789ab"
    identity = Identity(
        hosts=("gpubox", "gpubox.lab.example"),
        user="train",
        home="/home/train",
        cwd="/home/train/project",
        temp="/tmp/x1",
        uuids=(uuid,),
        serials=("1654922000000",),
        salt="s",
    )
    redact = Redactor({}, identity=identity)
    assert redact("/home/train/project/a.py") == "<cwd>/a.py"
    assert redact("/home/train/project2 /home/training /home/train/.cache") == (
        "<home>/project2 /home/training <home>/.cache"
    )
    assert redact("role train on gpubox.lab.example, gpubox; gpubox2 train@gpubox") == (
        "role train on <host>, <host>; gpubox2 <user>@<host>"
    )
    assert redact("C:\\Users\\train\\x /mnt/home/train") == "C:\\Users\\<user>\\x /mnt/home/<user>"
    told = redact(f"{uuid} {uuid[4:]} 1654922000000")
    assert uuid not in told
    first, *_ = told.split(" ")
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    assert first == pseudonym(uuid, salt="s") != pseudonym(uuid, salt="t")


@given(st.text(st.characters(codec=None), max_size=200))
def test_no_secret_survives_whatever_stands_around_it(text: str) -> None:
    redact = Redactor({"X": CANARY, "Y": CANARY[5:], "Z": CANARY * 2})
    assert CANARY not in redact(text + CANARY + text)


@pytest.mark.parametrize("piece", ["-eyJ", "://a:", "login ", "-----BEGIN ", "sk-", "?token=", "authorization: ", " "])
def test_no_log_makes_the_patterns_crawl(piece: str) -> None:
    # Time squared would be hours here, and the runner's own limit ends it.
    Redactor({"X": CANARY})(piece * 200_000)


@given(st.text(max_size=100))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    redact = Redactor({"X": CANARY})
    once = redact(text)
    assert redact(once) == once


def test_files_keep_every_other_byte(tmp_path: Path) -> None:
    file = tmp_path / "training_log.txt"
    before = b"\x00\xff\xfe step\r\n\x1b[31m" + CANARY.encode() + b"\xc3\xa9\r last"
    file.write_bytes(before)
    redact = Redactor({"X": CANARY})
    assert redact_file(file, redact) is True
    assert file.read_bytes() == before.replace(CANARY.encode(), b"<redacted:X>")
    assert redact_file(file, redact) is False
    assert [path.name for path in tmp_path.iterdir()] == ["training_log.txt"]
    with pytest.raises(WorkError, match="searched for secrets"):
        redact_file(tmp_path / "gone.txt", redact)


def test_a_whole_folder_is_searched_and_links_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.txt", tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    outside.write_text(CANARY)
    (folder / "link.txt").symlink_to(outside)
    for name in ("a.txt", "sub/pip.conf", "journal.jsonl", "clean.txt"):
        (folder / name).write_text("nothing" if name == "clean.txt" else f"index-url = https://u:{CANARY}@h/simple")
    assert redact_folder(folder, Redactor({"X": CANARY})) == ("a.txt", "sub/pip.conf")
    assert CANARY not in (folder / "sub" / "pip.conf").read_text()
    assert outside.read_text() == CANARY


def test_words_of_the_journal_survive_variables_and_hosts_of_that_name(samples: Samples) -> None:
    """MODE=training, a host called train, a GPU's name in a variable: the bundle is as provable as without."""
    environment = {
        "MODE": "training",
        "STATE": "completed",
        "ROLE": "cpu-comparison",
        "FILE": "training_log.txt",
        "PROJECT": "evidence",
        "GPU_NAME": "NVIDIA H100 80GB HBM3",
        "NUMBER": "12345678",
    }
    identity = Identity(hosts=("train", "cuda", "step"), user="train", paths=(("/opt/env", "<env>"),))
    redact = Redactor(environment, identity=identity)
    report = samples.check(samples.bundle("a", redact=redact))
    assert (report.answer, report.outcome) == ("accepted", "proven")
    told = redact("/opt/env/bin/python evidence evidence-saved 12345678 a12345678b NVIDIA H100 80GB HBM3")
    assert told == (
        "<env>/bin/python <redacted:PROJECT> evidence-saved <redacted:NUMBER> a12345678b NVIDIA H100 80GB HBM3"
    )
    assert "hunterhunter" not in Redactor({"MY_PASSWORD": "hunterhunter"})("xhunterhunterx")
