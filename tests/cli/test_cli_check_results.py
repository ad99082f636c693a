"""``evidence check`` in other tongues: JUnit for CI, an in-toto verification result for whoever relies on a checker."""

from __future__ import annotations

import hashlib
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ongpu.evidence import dsse
from tests.cli.cli_harness import here

REAL = Path(__file__).parents[2] / "submission_runs" / "h100_2026-11-22"


def cases(path: Path) -> dict[str, str]:
    """Each case's name before its colon, and how it ended."""
    suites = ET.parse(path).getroot()
    ended = {}
    for suite in suites:
        counted = {kind: int(suite.attrib[kind]) for kind in ("tests", "failures", "errors", "skipped")}
        assert counted["tests"] == len(suite)
        for case in suite:
            ended[case.attrib["name"].partition(":")[0]] = case[0].tag if len(case) else "passed"
    return ended


def test_a_proven_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junit, result = tmp_path / "junit.xml", tmp_path / "result.json"
    ran = here(["evidence", "check", str(REAL), "--junit", str(junit), "--result", str(result)], capsys)
    assert ran.status == 0, ran.err
    assert set(cases(junit).values()) == {"passed"} and "trained-on-cuda" in cases(junit)
    statement = json.loads(result.read_text())
    digest = hashlib.sha256((REAL / "manifest.json").read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "manifest.json", "digest": {"sha256": digest}}]
    assert statement["predicateType"] == "https://in-toto.io/attestation/svr/v0.1"
    predicate = statement["predicate"]
    assert {"ONGPU_BUNDLE_INTACT", "ONGPU_LEVEL_A0", "ONGPU_PROVEN", "ONGPU_CLAIM_TRAINED_ON_CUDA"} <= set(
        predicate["properties"]
    )
    assert predicate["verifier"]["id"].startswith("urn:") and predicate["timeCreated"].endswith("Z")
    again = here(["evidence", "check", str(REAL), "--result", str(result)], capsys)
    assert again.status == 1 and "could not be written" in again.err, "a result is never written over"


def test_a_spoiled_bundle_passes_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled = Path(shutil.copytree(REAL, tmp_path / "ev"))
    (spoiled / "training_log.txt").write_text("Using device: cuda \x1b[31m\x00 ]]> <b>\n")
    junit, result = tmp_path / "junit.xml", tmp_path / "result.json"
    ran = here(["evidence", "check", str(spoiled), "--junit", str(junit), "--result", str(result)], capsys)
    ended = cases(junit)
    assert ran.status == 1 and "was not written" in ran.err and not result.exists()
    assert (ended["8"], ended["accepted"]) == ("failure", "failure")
    assert "trained-on-cuda" not in ended


def test_unknown_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junit, result = tmp_path / "junit.xml", tmp_path / "result.json"
    words = ["evidence", "check", str(REAL), "--require", "A1", "--junit", str(junit), "--result", str(result)]
    ran = here(words, capsys)
    assert ran.status == 3 and not result.exists()
    assert cases(junit)["accepted"] == "error"


def test_a_signed_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cryptography")
    key, result = tmp_path / "me.key", tmp_path / "result.dsse.json"
    assert here(["keygen", str(key)], capsys).status == 0
    assert here(["evidence", "check", str(REAL), "--sign", str(key)], capsys).status == 2
    words = ["evidence", "check", str(REAL), "--result", str(result), "--sign", str(key)]
    assert here(words, capsys).status == 0
    envelope = dsse.read_envelope(result.read_bytes())
    public = dsse.Signer(key.read_bytes()).public
    assert dsse.verify(envelope, public) is dsse.SignatureState.VALID
    assert json.loads(envelope.payload)["predicate"]["properties"][0] == "ONGPU_BUNDLE_INTACT"
