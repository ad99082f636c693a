"""Key files and spent nonces; and that envelopes are those of other implementations."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence.keys import read_signer, spend_nonce, write_key_pair
from ongpu.evidence.trust import Level, read_trust

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

NONCE = "0123456789abcdef0123456789abcdef"


def test_a_key_pair_signs_and_is_trusted(tmp_path: Path, samples: Samples) -> None:
    files = write_key_pair(tmp_path / "runner.key", name="our runner")
    assert files.private.stat().st_mode & 0o777 == 0o600
    (key,) = read_trust(files.public.read_bytes())
    assert (key.public, key.level, key.name) == (files.public_key, Level.A1, "our runner")
    samples.signer = read_signer(files.private)
    report = samples.check(samples.bundle("a", signed=True), trust=[key])
    assert report.level is Level.A1
    assert any("our runner" in note for note in report.notes)


def test_keys_are_never_written_over_nor_read_where_others_may(tmp_path: Path) -> None:
    files = write_key_pair(tmp_path / "k", name="x")
    before = files.private.read_bytes()
    with pytest.raises(UsageError, match="never written over"):
        write_key_pair(tmp_path / "k", name="x")
    assert files.private.read_bytes() == before
    files.private.chmod(0o640)
    with pytest.raises(UsageError, match="read by others"):
        read_signer(files.private)
    with pytest.raises(UsageError, match="cannot be read"):
        read_signer(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be written"):
        write_key_pair(tmp_path / "no" / "k", name="x")


def test_a_nonce_is_good_for_one_bundle(tmp_path: Path) -> None:
    ledger = tmp_path / "spent"
    assert spend_nonce(ledger, nonce=NONCE, manifest_sha256="a" * 64) is False
    assert spend_nonce(ledger, nonce=NONCE, manifest_sha256="a" * 64) is True
    with pytest.raises(RefusedError, match="Another bundle"):
        spend_nonce(ledger, nonce=NONCE, manifest_sha256="b" * 64)
    assert spend_nonce(ledger, nonce="f" * 32, manifest_sha256="b" * 64) is False
    with pytest.raises(WorkError, match="cannot be used"):
        spend_nonce(tmp_path, nonce=NONCE, manifest_sha256="a" * 64)


def test_an_envelope_verifies_by_the_specification_alone(samples: Samples) -> None:
    """Written from the DSSE page without our code: decode, encode for signing, verify."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    folder = samples.bundle("a", signed=True)
    envelope = json.loads((folder / "manifest.dsse.json").read_text())
    body = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(body)} ".encode() + body
    public = json.loads(body)["predicate"]["signer"]["public_key"]
    (signature,) = envelope["signatures"]
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(base64.b64decode(signature["sig"]), signed)
    assert body == (folder / "manifest.json").read_bytes()
