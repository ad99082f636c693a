"""Do envelopes verify across implementations? Ours with securesystemslib, theirs with ours, and neither when spoiled.

    pip install securesystemslib cryptography && python tools/dsse_interop.py

Prints one line a case and exits 1 if any came out otherwise than it must. Not part of the tests, which must not need
securesystemslib; run it when the envelope's code changes.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import sys
from typing import Any

from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope  # type: ignore[import-not-found]
from securesystemslib.exceptions import VerificationError  # type: ignore[import-not-found]
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[import-not-found]

from ongpu.evidence import dsse


def theirs_accepts(data: bytes, key: Any) -> bool:
    """What securesystemslib says of an envelope."""
    try:
        Envelope.from_dict(json.loads(data)).verify([key], 1)
    except VerificationError:
        return False
    return True


def ours_accepts(data: bytes, public: str) -> bool:
    """What ongpu says of an envelope, content only: its own spelling is put to it first."""
    value = json.loads(data)
    (signature,) = value["signatures"]
    spelled = dsse.write_envelope(
        base64.b64decode(value["payload"]), base64.b64decode(signature["sig"]), signature["keyid"]
    )
    return dsse.verify(dsse.read_envelope(spelled), public) is dsse.SignatureState.VALID


def main() -> int:
    """Run the cases."""
    pair = dsse.generate()
    private = serialization.load_pem_private_key(pair.private_pem, password=None)
    signer = CryptoSigner(private)
    key = SSlibKey(dsse.keyid(pair.public), "ed25519", "ed25519", {"public": pair.public})
    failed = 0
    for name, payload in (("ascii", b'{"a": 1}'), ("non-ASCII", '{"\u00e4": "\U0001f525"}'.encode()), ("empty", b"")):
        ours = dsse.Signer(pair.private_pem).envelope(payload)
        made = Envelope(payload, dsse.PAYLOAD_TYPE, {})
        made.sign(signer)
        theirs = json.dumps(made.to_dict()).encode()
        spoiled = ours.replace(base64.b64encode(payload), base64.b64encode(payload + b" ")) if payload else None
        cases = [("ours, verified by securesystemslib", theirs_accepts(ours, key), True)]
        cases.append(("theirs, verified by ongpu", ours_accepts(theirs, pair.public), True))
        if spoiled is not None:
            cases.append(("ours spoiled, securesystemslib", theirs_accepts(spoiled, key), False))
            cases.append(("ours spoiled, ongpu", ours_accepts(spoiled, pair.public), False))
        for case, got, wanted in cases:
            failed += got is not wanted
            print(f"{'ok ' if got is wanted else 'BAD'} {name}: {case}: {'accepted' if got else 'refused'}")
    print(f"securesystemslib {importlib.metadata.version('securesystemslib')}, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
