"""What the checker holds a bundle to. Each problem it reports carries the number of one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

OBLIGATIONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "The bundle is a folder or a zip file that can be read within limits of entries, bytes, ratio and time.",
        2: "Every name is plain: relative, ASCII, no hidden, reserved or repeated one, whatever the case.",
        3: "Every member is a regular file: no link, device or pipe, nothing encrypted.",
        4: "A signature, where there is one, covers exactly the bytes of manifest.json and is valid.",
        5: "manifest.json is strict JSON: no repeated key, no NaN, no number that readers round.",
        6: "manifest.json is an in-toto Statement v1 with a predicate type and fields this checker knows.",
        7: "The files are exactly those the manifest lists, the manifest and its envelope: none more, none fewer.",
        8: "Every file has the size and the SHA-256 that the manifest lists.",
        9: "journal.jsonl is strict JSON Lines, complete to its last newline.",
        10: "The journal's records count from 0 without a gap, and each carries the chain value of the one before.",
        11: "The manifest states the journal's head and its number of records.",
        12: "The journal begins with its one run.start and ends with its one run.end; the run id is the manifest's.",
        13: "The monotonic times never go back, readings lie within the run, and the boot id is one.",
        14: "The records name one driver version and, for a device, one of the machine's own GPUs.",
        15: "Every process that spoke or was measured as the run's belongs to its recorded process tree.",
        16: "Files that the journal recorded are in the bundle with the same size and SHA-256.",
        17: "README.md, verdict.json and nvidia_smi.txt name the run, the verdict and the driver of the journal.",
        18: "The verdict recomputed from the journal equals the one the manifest claims, answer by answer.",
        19: "manifest.json is byte for byte what these files and this journal give.",
        20: "The nonce that was asked for is the run's, it made the run id, and it seeded the training.",
        21: "A signature that was asked for is by a key the checker was told to trust.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken obligation, by number, with what was found."""

    obligation: int
    text: str
