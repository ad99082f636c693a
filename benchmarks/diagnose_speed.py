"""How long the diagnosis takes on 100 MB logs of several makes, hostile ones among them, and how much memory.

usage: python benchmarks/diagnose_speed.py [--megabytes N] [--only NAME ...]

Each log ends in one decisive line, which must be found where the other lines are no rules' own. Peak memory is what
the child that reads the log grows by; the log itself is made before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator

from ongpu.catalog.causes import load_causes
from ongpu.diagnose import diagnose

END = "\nRuntimeError: CUDA error: device-side assert triggered\n"
DRAW = random.Random(1)
WORDS = [f"{DRAW.getrandbits(40):x}" for _ in range(50_000)]
RULE_WORDS = sorted(
    {
        word
        for rule in load_causes().rules
        if rule.cause
        for group in rule.match
        for one in group
        for word in one.split()
    }
)
SAMPLES = [rule.made_for for rule in load_causes().rules if rule.cause]


def _steps(i: int) -> str:
    return f"2025-11-22 10:00:{i % 60:02d} [rank{i % 8}] step {i} loss {DRAW.random():.4f} tok/s {i}\n"


def _nccl(i: int) -> str:
    return f"host:{i}:{i} [{i % 8}] NCCL INFO Channel {i % 64:02d}/0 : {i % 8} -> {i % 7} via P2P\n"


def _colored(i: int) -> str:
    return f"\x1b[32m10:00:00\x1b[0m \x1b[1mINFO\x1b[0m step {i} \x1b[33mloss {DRAW.random():.4f}\x1b[0m\n"


def _bars(i: int) -> str:
    bar = f"{i % 100:3d}%|{'#' * (i % 20):20}| {i}/9999"
    return f"\rtrain: {bar} [00:{i % 60:02d}<01:02, {i % 9}.1it/s, loss={DRAW.random():.3f}]"


def _frames(i: int) -> str:
    address = DRAW.getrandbits(48)
    return f"frame #{i % 40}: c10::cuda::Error + 0x{address & 0xFFF:x} (0x{address:x} in /opt/lib/libtorch_cuda.so)\n"


def _random(i: int) -> str:
    return f"{i} " + " ".join(DRAW.choices(WORDS, k=8)) + "\n"


def _rule_words(i: int) -> str:
    return f"{i} " + " ".join(DRAW.choices(RULE_WORDS, k=10)) + "\n"


def _samples(i: int) -> str:
    return f"{i:x} {DRAW.choice(WORDS)} {DRAW.choice(SAMPLES)} {DRAW.choice(WORDS)}\n"


MAKES: dict[str, tuple[Callable[[int], str], str]] = {
    "training steps": (_steps, "utf-8"),
    "NCCL INFO": (_nccl, "utf-8"),
    "colored": (_colored, "utf-8"),
    "progress bars (CR)": (_bars, "utf-8"),
    "UTF-16": (_steps, "utf-16-le"),
    "addresses": (_frames, "utf-8"),
    "random words": (_random, "utf-8"),
    "rule words": (_rule_words, "utf-8"),
    "rule samples": (_samples, "utf-8"),
}


def parts(name: str, size: int) -> Iterator[bytes]:
    """A log of that make and size, in parts."""
    make, encoding = MAKES[name]
    made, number = 0, 0
    while made < size:
        lines = []
        length = 0
        while length < 1 << 20:
            lines.append(make(number))
            length += len(lines[-1])
            number += 1
        part = "".join(lines).encode(encoding)
        made += len(part)
        yield part
    yield END.encode(encoding)


def measure(name: str, size: int) -> tuple[float, str, float]:
    """Seconds, cause and peak MiB of one log; the time it takes to make it is not counted."""
    log = list(parts(name, size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = diagnose(iter(log))
    seconds = time.perf_counter() - started
    return seconds, found.cause.value, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print one line a make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--only", nargs="*", default=list(MAKES), choices=list(MAKES))
    options = parser.parse_args()
    size = int(options.megabytes * 1_000_000)
    for name in options.only:
        with multiprocessing.Pool(1) as pool:
            seconds, cause, grown = pool.apply(measure, (name, size))
        print(f"{name:20} {options.megabytes:.0f} MB {seconds:6.2f} s, {grown:4.0f} MiB more, {cause}", flush=True)


if __name__ == "__main__":
    main()
