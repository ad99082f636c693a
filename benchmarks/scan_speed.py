"""How long `scan` takes, side by side with cuobjdump and with plain inflating.

usage: python benchmarks/scan_speed.py [--binaries FOLDER] [--environment SITE_PACKAGES] [--wheel FILE]
                                       [--cuobjdump PATH] [--repeat N] [--curve]

Prints wall and processor seconds, median over the repeats, and peak memory of this process. cuobjdump runs on each
file (``--list-elf`` and ``--list-ptx``) in turn with ours; its counts are compared, target by target. ``--curve``
shows how the time grows with containers and with payload, on files made for it.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ongpu.scan import scan_file, scan_paths, scan_wheel
from ongpu.scan.files import may_have_code

_LISTED = re.compile(r"^(?:ELF|PTX) file\s+\d+: .*?\.?(sm_\d+[af]?)\.(cubin|ptx)$", re.MULTILINE)


def timed(what: str, call: Callable[[], object], repeat: int) -> float:
    """Print and return the median wall time."""
    walls, cpus = [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{what}: {wall:.3f} s wall (best {min(walls):.3f}), {cpu:.3f} s processor, peak {peak} MiB")
    return wall


def wall(call: Callable[[], object]) -> float:
    """Seconds by the clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def list_with(tool: str, path: Path) -> Counter[str]:
    """Machine code and PTX by target, as cuobjdump lists them."""
    listed: Counter[str] = Counter()
    for option in ("--list-elf", "--list-ptx"):
        done = subprocess.run([tool, option, str(path)], capture_output=True, text=True, check=False)
        kind = "sm_" if option == "--list-elf" else "compute_"
        for target, _ in _LISTED.findall(done.stdout):
            listed[target.replace("sm_", kind)] += 1
    return listed


def compare_cuobjdump(tool: str, files: list[Path], repeat: int) -> None:
    """Run ours, ours with its process' start, and the tool in turn, ``repeat`` rounds; compare counts in the first."""
    starting = [sys.executable, "-c", "import sys; from pathlib import Path; from ongpu.scan import scan_file\n"
                "for one in sys.argv[1:]: scan_file(Path(one))", *map(str, files)]  # fmt: skip
    command = [sys.executable, "-m", "ongpu", "scan", str(files[0].parent)]
    in_process, with_start, by_command, tool_took = [], [], [], []
    listed: dict[Path, Counter[str]] = {}
    for turn in range(repeat):
        in_process.append(wall(lambda: [scan_file(one) for one in files]))
        with_start.append(wall(lambda: subprocess.run(starting, check=True)))
        by_command.append(wall(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))
        begin = time.perf_counter()
        for path in files:
            found = list_with(tool, path)
            listed.setdefault(path, found)
        tool_took.append(time.perf_counter() - begin)
        print(
            f"round {turn + 1} at load {os.getloadavg()[0]:.1f}: ongpu {in_process[-1]:.3f} s in process, "
            f"{with_start[-1]:.3f} s with its start, {by_command[-1]:.3f} s by the command, "
            f"cuobjdump {tool_took[-1]:.1f} s",
            flush=True,
        )
    ours, started, commanded, seconds = map(statistics.median, (in_process, with_start, by_command, tool_took))
    equal, differing = 0, []
    for path in files:
        read = scan_file(path)
        outside = Counter({str(row.target): row.count for row in read.outside})
        mine = Counter({str(row.target): row.count for row in (*read.sass, *read.ptx)}) - outside
        # cuobjdump does not print the 'f' of machine code.
        plain: Counter[str] = Counter()
        for target, count in mine.items():
            plain[target.removesuffix("f")] += count
        if plain == listed[path]:
            equal += 1
        else:
            differing.append(f"{path.name}: ongpu {dict(plain)} cuobjdump {dict(listed[path])}")
    print(
        f"cuobjdump: {seconds:.1f} s, {seconds / ours:.0f} x ongpu in process, {seconds / started:.0f} with its start, "
        f"{seconds / commanded:.0f} by the command (`ongpu scan` of the folder)"
    )
    print(f"counts equal in {equal} of {len(files)} files")
    for text in differing:
        print(f"    {text}")


def inflate_only(path: Path) -> None:
    """Inflate the members scan would look at, one after the other, and keep nothing."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for member in archive.infolist():
            if not may_have_code(member.filename) or member.compress_type != zipfile.ZIP_DEFLATED:
                continue
            stream.seek(member.header_offset + 26)
            lengths = stream.read(4)
            stream.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
            engine, left = zlib.decompressobj(-15), member.compress_size
            while left:
                piece = stream.read(min(left, 64 << 10))
                left -= len(piece)
                engine.decompress(piece)


def fatbin(containers: int, payload_bytes: int) -> bytes:
    """Containers of one plain cubin each."""
    entry = (
        bytes.fromhex("0200010140000000") + payload_bytes.to_bytes(8, "little") + bytes(8) + bytes.fromhex("0800010078")
    )
    entry = entry.ljust(64, b"\0") + bytes(payload_bytes)
    one = b"\x50\xed\x55\xba\x01\x00\x10\x00" + len(entry).to_bytes(8, "little") + entry
    return one * containers


def curve(repeat: int) -> None:
    """Linear in containers, independent of the payload."""
    for containers, payload_bytes in ((1000, 4096), (4000, 4096), (16000, 4096), (1000, 65536), (1000, 262144)):
        data = fatbin(containers, payload_bytes)
        with tempfile.NamedTemporaryFile(suffix=".fatbin") as stream:
            stream.write(data)
            stream.flush()
            path = Path(stream.name)
            timed(f"{containers} containers of {payload_bytes} bytes", functools.partial(scan_file, path), repeat)


def forget(folder: Path) -> None:
    """Ask the kernel to drop the cached pages of every file in the folder (clean pages only; others stay)."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", type=Path)
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--cuobjdump")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--curve", action="store_true")
    asked = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if asked.curve:
        curve(asked.repeat)
    if asked.environment:
        folder = asked.environment
        timed("environment, sections only", lambda: scan_paths([folder], deep=False), asked.repeat)
        timed("environment, all data", lambda: scan_paths([folder]), asked.repeat)
        cold = []
        for _ in range(asked.repeat):
            forget(folder)
            cold.append(timed("environment, all data, pages dropped first", lambda: scan_paths([folder]), 1))
        print(f"pages dropped first: median {statistics.median(cold):.2f} s")
    if asked.wheel:
        wheel = asked.wheel
        plain = timed("inflating the wheel", lambda: inflate_only(wheel), asked.repeat)
        streamed = timed("scanning the wheel", lambda: scan_wheel(wheel), asked.repeat)
        print(f"scanning takes {streamed / plain:.2f} times inflating")
    if asked.binaries:
        files = sorted(path for path in asked.binaries.rglob("*.so*") if path.is_file())
        if asked.cuobjdump:
            compare_cuobjdump(asked.cuobjdump, files, asked.repeat)
        else:
            timed(f"{len(files)} files, in process", lambda: [scan_file(one) for one in files], asked.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
