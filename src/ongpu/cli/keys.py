"""Commands of whoever signs and of whoever reviews: keygen, challenge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ongpu.cli.frame import AsJson, command

if TYPE_CHECKING:
    from ongpu.evidence.dsse import Signer


def signer(path: Path | None) -> Signer | None:
    """What signs, from the file named by ``--sign``, before anything runs."""
    from ongpu.evidence.keys import read_signer

    return None if path is None else read_signer(path)


def nonce(text: str | None) -> str | None:
    """What ``--nonce`` holds, checked before anything runs."""
    from ongpu.evidence.challenge import check_nonce

    return None if text is None else check_nonce(text)


@command("keygen")
def keygen(
    private: Annotated[Path, typer.Argument(metavar="FILE", help="The new private key; its public half is FILE.pub.")],
    name: Annotated[str, typer.Option(metavar="WORDS", help="Who signs with it, as reviewers will read it.")] = "",
    as_json: AsJson = False,
) -> int:
    """Make a key pair to sign evidence with (Ed25519). A key is never written over."""
    from ongpu.evidence.keys import write_key_pair
    from ongpu.report.json_text import to_json

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
    from ongpu.report.document import ChallengeDocument
    from ongpu.report.json_text import to_json

    made = new_nonce()
    if as_json:
        sys.stdout.write(to_json("challenge", ChallengeDocument(nonce=made, seed=seed(made))))
    else:
        print(made)
        print(f"They run:  ongpu enable --nonce {made}", file=sys.stderr)
        print(f"You check: ongpu evidence check BUNDLE --nonce {made} --ledger spent-nonces.txt", file=sys.stderr)
        print(f"A training of their own must be given --seed {seed(made)}.", file=sys.stderr)
    return 0
