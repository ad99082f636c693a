"""Spoil bundles in many ways and count what the checker accepts: the answer must be 0.

    python benchmarks/mutate_bundles.py [--count 10000] [--seed 0] [--bundle FOLDER ...]

Bundles named with ``--bundle`` (real ones) are mutated beside the sample bundles of the tests. Each mutant differs
from its original in bytes that matter; the families and what each may at best be accepted as are listed in
``FAMILIES``. Prints one JSON document and exits 1 if any mutant was accepted.

Families whose name begins with ``forged`` have the journal chained again and the manifest written again, as the forger
of an unsigned bundle would. Nothing can see such a forgery as such, so what counts as accepted there is an *outcome*
better than the original's: deleting, swapping or reordering observations must never improve it. How many were still
proven, as their originals are, is told beside it, with the kinds of the records that were left out or doubled.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ongpu.domain.verdict import Outcome  # noqa: E402 - the tests' samples are below the root
from ongpu.evidence.check import Answer, check  # noqa: E402
from ongpu.evidence.statement import UNLISTED  # noqa: E402
from ongpu.evidence.trust import TrustedKey  # noqa: E402
from tests.evidence.conftest import Samples  # noqa: E402

Files = dict[str, bytes]
Mutation = Callable[[random.Random, Files, Files], Files | None]


def flip_bit(rng: random.Random, files: Files, _other: Files) -> Files:
    """One bit of one file."""
    name = rng.choice(sorted(name for name, data in files.items() if data))
    data = bytearray(files[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return files | {name: bytes(data)}


def set_byte(rng: random.Random, files: Files, _other: Files) -> Files:
    """One byte becomes another printable one: what an editor would do."""
    name = rng.choice(sorted(name for name, data in files.items() if data))
    data = bytearray(files[name])
    at = rng.randrange(len(data))
    data[at] = rng.choice([one for one in b'0123456789abcdef \n"{}[]:,-' if one != data[at]])
    return files | {name: bytes(data)}


def cut_or_grow(rng: random.Random, files: Files, _other: Files) -> Files:
    """Bytes are removed, doubled or added."""
    name = rng.choice(sorted(name for name, data in files.items() if data))
    data = files[name]
    at, size = rng.randrange(len(data)), rng.randrange(1, 40)
    match rng.randrange(3):
        case 0:
            new = data[:at] + data[at + size :]
        case 1:
            new = data[:at] + data[at : at + size] * 2 + data[at + size :]
        case _:
            new = data[:at] + rng.randbytes(size) + data[at:]
    return files | {name: new}


def name_games(rng: random.Random, files: Files, _other: Files) -> Files:
    """A file is removed, renamed, added, or two trade places."""
    names = sorted(files)
    name = rng.choice(names)
    rest = {key: value for key, value in files.items() if key != name}
    match rng.randrange(4):
        case 0:
            return rest
        case 1:
            return rest | {f"{name}.bak": files[name]}
        case 2:
            extra = rng.choice(
                ["notes.txt", "README.txt", "attachments/a.bin", "a/b/c.txt", ".gitignore", "Journal.JSONL"]
            )
            return files | {extra: rng.randbytes(20)}
        case _:
            second = rng.choice([one for one in names if files[one] != files[name]])
            return files | {name: files[second], second: files[name]}


def swap_with_other_run(rng: random.Random, files: Files, other: Files) -> Files | None:
    """One to three files come from another genuine run."""
    names = sorted(name for name in files.keys() & other.keys() if files[name] != other[name])
    chosen = rng.sample(names, min(len(names) - 1, rng.randrange(1, 4)))
    return files | {name: other[name] for name in chosen}


def edit_records(rng: random.Random, files: Files, other: Files) -> Files | None:
    """Lines of the journal are deleted, doubled, reordered or taken from another run, as an editor would."""
    lines = files["journal.jsonl"].splitlines(keepends=True)
    new = _edited(rng, lines, other["journal.jsonl"].splitlines(keepends=True))
    return None if new == lines else files | {"journal.jsonl": b"".join(new)}


def rehash_without_signing(rng: random.Random, files: Files, other: Files) -> Files | None:
    """A signed bundle is edited, hashed and its manifest written again; the old signature stays."""
    spoiled = edit_records(rng, files, other)
    if spoiled is None:
        return None
    forged = _forge(spoiled)
    return None if forged["manifest.json"] == files["manifest.json"] else forged


def rehash_keeping_the_signer(rng: random.Random, files: Files, other: Files) -> Files | None:
    """The same, and the signer's name is put into the new manifest as well."""
    forged = rehash_without_signing(rng, files, other)
    if forged is None:
        return None
    value = json.loads(forged["manifest.json"])
    value["predicate"]["signer"] = json.loads(files["manifest.json"])["predicate"]["signer"]
    value["predicate"]["level"] = "A1"
    return forged | {"manifest.json": (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()}


def forged_records(rng: random.Random, files: Files, other: Files) -> Files | None:
    """Records deleted, doubled, reordered or swapped in, chained and sealed again."""
    spoiled = edit_records(rng, {name: data for name, data in files.items() if name not in UNLISTED}, other)
    return None if spoiled is None else _forge(spoiled)


def forged_swap(rng: random.Random, files: Files, other: Files) -> Files | None:
    """A file of another run, sealed again."""
    kept = {name: data for name, data in files.items() if name not in UNLISTED}
    spoiled = swap_with_other_run(rng, kept, other)
    return None if spoiled is None else _forge(spoiled)


@dataclass(frozen=True)
class Family:
    """A way to spoil: ``signed`` needs a signed original, ``forged`` is judged by the outcome alone."""

    spoil: Mutation
    signed: bool = False
    forged: bool = False


FAMILIES = {
    "one bit": Family(flip_bit),
    "one byte": Family(set_byte),
    "cut, doubled or added bytes": Family(cut_or_grow),
    "files removed, renamed, added, exchanged": Family(name_games),
    "files of another run": Family(swap_with_other_run),
    "records edited": Family(edit_records),
    "re-hashed without signing": Family(rehash_without_signing, signed=True),
    "re-hashed, signer named": Family(rehash_keeping_the_signer, signed=True),
    "forged: records": Family(forged_records, forged=True),
    "forged: file of another run": Family(forged_swap, forged=True),
}


def _edited(rng: random.Random, lines: list[bytes], other: list[bytes]) -> list[bytes]:
    new = list(lines)
    at = rng.randrange(len(new))
    match rng.randrange(5):
        case 0:
            del new[at]
        case 1:
            del new[at : at + rng.randrange(2, 8)]
        case 2:
            new.insert(rng.randrange(len(new)), new[at])
        case 3:
            to = rng.randrange(len(new))
            new[at], new[to] = new[to], new[at]
        case _:
            new[at] = other[min(at, len(other) - 1)]
    return new or lines


def _forge(files: Files) -> Files:
    """Chain again, hash again, write the manifest again; what does not change is given back as it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, files)
        samples = Samples(root=folder)
        try:
            samples.forge(folder)
        except (ValueError, KeyError, IndexError):
            return files | {"manifest.json": b"{}"}
        return _read(folder)


def _kinds_that_differ(before: Files, after: Files) -> list[str]:
    """The kinds of the records that one of two journals has and the other has not, whatever their numbers."""

    def bare(files: Files) -> Counter[str]:
        lines = (json.loads(line) for line in files.get("journal.jsonl", b"").splitlines())
        return Counter(f"{one['kind']} {json.dumps(one | {'seq': 0, 'prev': ''}, sort_keys=True)}" for one in lines)

    one, two = bare(before), bare(after)
    return [text.split(maxsplit=1)[0] for text in (one - two) + (two - one)]


def _read(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@dataclass(frozen=True)
class Original:
    """A genuine bundle: its files, whether it is signed, and what it proves."""

    name: str
    files: Files
    signed: bool
    outcome: Outcome


def originals(root: Path, named: list[Path]) -> tuple[list[Original], list[TrustedKey]]:
    """Genuine bundles: signed and unsigned samples, one that was interrupted, one rehearsed, and the real ones."""
    samples = Samples(root=root / "samples")
    folders = [samples.bundle(f"s{seed}", seed=seed, signed=seed % 2 == 0) for seed in range(1, 5)]
    folders += [samples.bundle("s5", seed=5, ended="interrupted"), samples.bundle("s6", seed=6, simulated=True)]
    found = []
    for folder in [*folders, *named]:
        report = check(folder)
        if report.answer is Answer.REFUSED:
            raise SystemExit(f"{folder} is not a genuine bundle: {report.problems[0].text}")
        files = _read(folder)
        signed = "manifest.dsse.json" in files
        found.append(Original(name=folder.name, files=files, signed=signed, outcome=report.outcome))
    return found, [samples.trust]


def mutants(rng: random.Random, found: list[Original], count: int) -> Iterator[tuple[str, Original, Files]]:
    """``count`` mutants, the families in turn."""
    made = 0
    while made < count:
        for name, family in FAMILIES.items():
            candidates = [one for one in found if one.signed or not family.signed]
            original = rng.choice(candidates)
            other = rng.choice([one for one in found if one is not original])
            files = family.spoil(rng, original.files, other.files)
            if files is None or files == original.files:
                continue
            made += 1
            yield name, original, files
            if made == count:
                return


def main() -> int:
    """Run, print one JSON document, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    options = parser.parse_args()
    rng = random.Random(options.seed)
    made: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    named: Counter[int] = Counter()
    still: Counter[str] = Counter()
    immaterial: Counter[str] = Counter()
    began = time.monotonic()
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        found, _trust = originals(root, options.bundle)
        for family, original, files in mutants(rng, found, options.count):
            folder = root / "mutant"
            _write(folder, files)
            started = time.monotonic()
            report = check(folder)
            slowest_s = max(slowest_s, time.monotonic() - started)
            shutil.rmtree(folder)
            made[family] += 1
            named.update({one.obligation for one in report.problems})
            accepted = report.answer is not Answer.REFUSED
            if FAMILIES[family].forged:
                # An unsigned forgery may be accepted as a bundle, but never as a better proof than it was.
                accepted = report.outcome is Outcome.PROVEN and original.outcome is not Outcome.PROVEN
                if report.outcome is Outcome.PROVEN and not accepted:
                    still[original.name] += 1
                    immaterial.update(_kinds_that_differ(original.files, files))
            if accepted:
                bad.append(
                    {
                        "family": family,
                        "original": original.name,
                        "outcome": report.outcome.value,
                        "records": _kinds_that_differ(original.files, files)[:8],
                    }
                )
    document = {
        "mutants": sum(made.values()),
        "accepted": len(bad),
        "families": dict(made),
        "forged_and_still_proven": {"by_original": dict(still), "records_left_out_or_doubled": dict(immaterial)},
        "obligations_named": {str(number): times for number, times in sorted(named.items())},
        "seed": options.seed,
        "originals": [{"name": one.name, "signed": one.signed, "outcome": one.outcome.value} for one in found],
        "slowest_check_s": round(slowest_s, 3),
        "seconds": round(time.monotonic() - began, 1),
        "bad": bad[:20],
    }
    print(json.dumps(document, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
