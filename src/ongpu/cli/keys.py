"""Commands of whoever signs and of whoever reviews: keygen, challenge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ongpu.cli.frame import AsJson, command


@command("keygen")
def keygen(
    private: Annotated[Path, typer.Argument(metavar="FILE", help="The new private key; its public half is FILE.pub.")],
    name: Annotated[str, typer.Option(metavar="WORDS", help="Who signs with it, as reviewers will read it.")] = "",
    as_json: AsJson = False,
) -> int:
    """Make a key pair to sign evidence with (Ed25519). A key is never written over."""
    from ongpu.evidence.keys import write_key_pair
    from ongpu.report.document import to_json

    made = write_key_pair(private, name=name)
    if as_json:
        sys.stdout.write(to_json("keygen", made))
    else:
        print(f"Private key: {made.private} (keep it: whoever has it signs as you)")
        print(f"Public key:  {made.public} (give it to reviewers: ongpu evidence check BUNDLE --trust {made.public})")
        print(f"Next: Sign with it: ongpu enable --sign {made.private}")
    return 0


@command("challenge")
def challenge(as_json: AsJson = False) -> int:
    """Make a nonce that no run before it can contain: give it to who runs, and ask for it when you check.

    The reference training is then seeded with what follows from it, so that an older loss series does not fit.
    """
    from ongpu.evidence.challenge import new_nonce, seed
    from ongpu.report.document import ChallengeDocument, to_json

    nonce = new_nonce()
    if as_json:
        sys.stdout.write(to_json("challenge", ChallengeDocument(nonce=nonce, seed=seed(nonce))))
    else:
        print(nonce)
        print(f"They run:  ongpu enable --nonce {nonce}", file=sys.stderr)
        print(f"You check: ongpu evidence check BUNDLE --nonce {nonce} --ledger spent-nonces.txt", file=sys.stderr)
        print(f"A training of their own must be given --seed {seed(nonce)}.", file=sys.stderr)
    return 0
