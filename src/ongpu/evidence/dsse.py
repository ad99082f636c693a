"""DSSE envelopes over the manifest, signed with Ed25519.

The signature is over the exact bytes of ``manifest.json`` (DSSE 1.0.2, pre-authentication encoding). ``keyid``
is an unauthenticated hint by that specification, so nothing here decides by it. ``cryptography`` is asked for
only when something is signed or verified.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
from dataclasses import dataclass
from typing import Final

from ongpu.errors import UsageError
from ongpu.evidence import strict_json

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_KEY_HEX_DIGITS: Final = 64


class EnvelopeError(ValueError):
    """The envelope is not one that ``seal`` writes; the message says why."""


class SignatureState(enum.StrEnum):
    """What verifying a signature gave."""

    VALID = "valid"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A read envelope: the payload's bytes and its one signature, not verified yet."""

    payload: bytes
    signature: bytes
    keyid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A new key: ``private_pem`` is secret, ``public`` is 64 hexadecimal digits."""

    private_pem: bytes
    public: str


def keyid(public: str) -> str:
    """A short name for a public key: the SHA-256 of its 32 bytes."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed. Lengths count bytes, not characters."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def generate() -> KeyPair:
    """Make a key pair. Raises :class:`UsageError` without the ``sign`` extra."""
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - optional dependency
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - optional dependency
    except ImportError:
        raise _no_cryptography() from None
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(private_pem=pem, public=key.public_key().public_bytes_raw().hex())


class Signer:
    """A private key that signs manifests."""

    def __init__(self, private_pem: bytes) -> None:
        """Raises :class:`UsageError` for anything but an unencrypted Ed25519 key in PEM (PKCS 8)."""
        try:
            from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - optional dependency
            from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - optional dependency
        except ImportError:
            raise _no_cryptography() from None
        try:
            key = serialization.load_pem_private_key(private_pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise UsageError(
                "The signing key is not an unencrypted Ed25519 private key in PEM.",
                next_step="Make one with ongpu keygen.",
            )
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    def envelope(self, payload: bytes) -> bytes:
        """The bytes of ``manifest.dsse.json`` for these bytes of ``manifest.json``."""
        return write_envelope(payload, self._key.sign(pae(PAYLOAD_TYPE, payload)), keyid(self.public))


def write_envelope(payload: bytes, signature: bytes, hint: str) -> bytes:
    """The one way an envelope is written, so that no byte of it can change unseen."""
    value = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": hint, "sig": base64.b64encode(signature).decode("ascii")}],
    }
    return (json.dumps(value, ensure_ascii=True, indent=1, sort_keys=True) + "\n").encode("ascii")


def read_envelope(data: bytes) -> Envelope:
    """Read an envelope without believing it. Raises :class:`EnvelopeError`.

    Exactly what :func:`write_envelope` gives is taken: one signature, our payload type, no other spelling of
    the same content.
    """
    try:
        value = strict_json.parse_object(data)
    except strict_json.StrictJsonError as error:
        raise EnvelopeError(str(error)) from None
    if value.get("payloadType") != PAYLOAD_TYPE:
        raise EnvelopeError(f"its payload type is not {PAYLOAD_TYPE}")
    signatures = value.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise EnvelopeError("it does not hold exactly one signature")
    payload, signature, hint = value.get("payload"), signatures[0].get("sig"), signatures[0].get("keyid")
    if not (isinstance(payload, str) and isinstance(signature, str) and isinstance(hint, str)):
        raise EnvelopeError("payload, sig or keyid is missing or not a text")
    try:
        envelope = Envelope(
            payload=base64.b64decode(payload, validate=True),
            signature=base64.b64decode(signature, validate=True),
            keyid=hint,
        )
    except (binascii.Error, ValueError):
        raise EnvelopeError("payload or sig is not base64") from None
    if write_envelope(envelope.payload, envelope.signature, hint) != data:
        raise EnvelopeError("it is not written the one way an envelope is written")
    return envelope


def verify(envelope: Envelope, public: str) -> SignatureState:
    """Whether the key ``public`` signed the payload; unavailable where ``cryptography`` is not installed."""
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - optional dependency
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - optional dependency
    except ImportError:
        return SignatureState.UNAVAILABLE
    if not is_public_key(public):
        return SignatureState.INVALID
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    try:
        key.verify(envelope.signature, pae(PAYLOAD_TYPE, envelope.payload))
    except InvalidSignature:
        return SignatureState.INVALID
    return SignatureState.VALID


def is_public_key(text: str) -> bool:
    """Whether ``text`` is 64 lower-case hexadecimal digits."""
    return len(text) == _KEY_HEX_DIGITS and all(letter in "0123456789abcdef" for letter in text)


def _no_cryptography() -> UsageError:
    return UsageError(
        "Signing needs the package cryptography, which is not installed.",
        next_step="Install it with pip install 'ongpu[sign]'.",
    )
