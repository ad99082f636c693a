"""Mutated inputs against `scan`: every one must end as a coverage, named problems included, in bounded time.

usage: python benchmarks/scan_fuzz.py SEED_FOLDER COUNT [RANDOM_SEED]

Seeds are the files of a folder (``tests/scan/data``), plus a PE file made from one; every fourth input is read as a
stream. A mutation flips bits, overwrites fields with extreme numbers, cuts, repeats or splices. Anything but a
coverage, and any single input over a second, is a failure: it is written to ``scan_fuzz_failure.bin`` and ends the
run with status 1.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
from pathlib import Path

from ongpu.scan.binary import scan_reader
from ongpu.scan.reader import BytesReader, ForwardReader

EXTREMES = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    63,
    64,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
LIMIT_S = 1.0


def mutated(data: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """One to eight mutations of a seed."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if not out:
            break
        # Headers are where the decisions are: half of the mutations fall on the first kilobyte.
        at = chance.randrange(min(len(out), 1024) if chance.random() < 0.5 else len(out))
        kind = chance.randrange(6)
        if kind == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(EXTREMES) % (1 << 8 * width)
            out[at : at + width] = number.to_bytes(width, "little")
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            length = chance.randrange(1, 512)
            out[at:at] = out[at : at + length] * chance.randint(1, 4)
        elif kind == 4:
            other = chance.choice(seeds)
            start = chance.randrange(len(other))
            piece = other[start : start + chance.randrange(1, 512)]
            out[at : at + len(piece)] = piece
        else:
            del out[at : at + chance.randrange(1, 64)]
    return bytes(out)


def pe_file(container: bytes) -> bytes:
    """A PE file with one ``.nv_fatb`` section."""
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    header += struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 0, 0x2022)
    size = (len(container) + 511) // 512 * 512
    header += struct.pack("<8sIIIIIIHHI", b".nv_fatb", len(container), 0x1000, size, 512, 0, 0, 0, 0, 0x40000040)
    return header.ljust(512, b"\0") + container.ljust(size, b"\0")


def streamed(data: bytes) -> ForwardReader:
    """The same bytes, which only go forward."""
    return ForwardReader(lambda: iter([data]), len(data))


def main() -> int:
    """Run COUNT inputs and print what they were."""
    names = sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix != ".sh" and path.is_file())
    seeds = [path.read_bytes() for path in names]
    names.append(Path("library.dll"))
    seeds.append(pe_file(Path(sys.argv[1], "targets.fatbin").read_bytes()))
    count = int(sys.argv[2])
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    start = time.perf_counter()
    slowest, problems, images = 0.0, 0, 0
    for number in range(count):
        index = number % len(seeds)
        data = mutated(seeds[index], seeds, chance)
        reader = BytesReader(data) if number % 4 else streamed(data)
        began = time.perf_counter()
        try:
            found = scan_reader(reader, path=names[index].name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            Path("scan_fuzz_failure.bin").write_bytes(data)
            print(f"input {number} of {names[index].name}: {type(error).__name__}: {error}")
            return 1
        seconds = time.perf_counter() - began
        slowest = max(slowest, seconds)
        if seconds > LIMIT_S:
            Path("scan_fuzz_failure.bin").write_bytes(data)
            print(f"input {number} of {names[index].name} took {seconds:.2f} s")
            return 1
        problems += bool(found.problems)
        images += bool(found.has_code)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{count} inputs in {time.perf_counter() - start:.0f} s, slowest {slowest * 1e3:.1f} ms, peak {peak} MiB; "
        f"{images} still with code, {problems} with a named problem, none ended otherwise"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
