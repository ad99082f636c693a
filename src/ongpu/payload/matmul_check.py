"""Matrix products on one device, checked for the right answer, while somebody outside looks at the process.

In: ``--release FILE`` (wait after each product until this file exists, then go on), and optionally
``--uuid GPU-...`` (else device 0), ``--device cpu`` (to try the check itself), ``--size``, ``--wait-s``. Needs torch.
Out: lines of JSON on standard output. ``{"event": "holding", ...}`` once the memory is held and both products have
been done and synchronised: ``pid``, ``ppid``, ``uuid``, ``device``, ``reserved_bytes`` ...; the process then waits,
its memory held. After the release one ``{"event": "product", ...}`` for each dtype, and ``{"event": "done"}``;
``{"event": "error", "text": ...}`` where torch refused, with ``dtype`` where it refused one product only (the other
is still done). Status 0 whenever the last of these was written.

The check of a product ``out = a @ b`` of n x n standard normal numbers of a fresh seed (recorded):

- ``out`` is filled with NaN before; one that stays is counted in ``not_finite``.
- ``rows_error``: ``|out - ref| / |ref|`` (Frobenius) over 64 random rows, ``ref`` in float64 on the CPU from the same
  rounded inputs.
- ``projected_error``: ``|out v - a (b v)| / |a (b v)|`` for a random vector v of signs, in float64 on the CPU. Every
  element of ``out`` takes part (Freivalds' check); for random v the two ratios estimate the same number.
- ``bound = u_out + 4 sqrt(n) u_32``. Rounding the result to its dtype is at most ``u_out`` of each element (2^-24 for
  float32, 2^-8 for bfloat16). Both accumulate in float32 (reduced-precision sums are switched off), whose n
  roundings of random sign add up to about ``sqrt(n) u_32`` of the result (Higham and Mary, "A New Approach to
  Probabilistic Rounding Error Analysis", 2019; for zero-mean data their constant is below 1), times 4 for the
  sake of what is not random about them. TF32 (2^-11) lies a factor of ten above the bound of float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROWS = 64
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8}


def say(event: str, **fields: object) -> None:
    """One line for whoever started this."""
    print(json.dumps({"event": event, **fields}), flush=True)


def digits(uuid: str) -> str:
    """A UUID without the kind of device it is of: torch leaves it out, NVML does not."""
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def choose(torch: Any, arguments: argparse.Namespace) -> tuple[Any, str | None]:
    """The device asked for, by UUID where one was given, and its UUID as torch has it."""
    if arguments.device == "cpu":
        return torch.device("cpu"), None
    torch.cuda.init()
    uuids = [
        str(getattr(torch.cuda.get_device_properties(index), "uuid", "")) for index in range(torch.cuda.device_count())
    ]
    if arguments.uuid is None:
        return torch.device("cuda", 0), uuids[0] or None
    wanted = digits(arguments.uuid)
    for index, uuid in enumerate(uuids):
        if digits(uuid) == wanted:
            return torch.device("cuda", index), uuid
    if len(uuids) == 1 and not uuids[0]:  # an old torch names none; with one device there is no choice
        return torch.device("cuda", 0), None
    if not all(uuids):
        raise RuntimeError(f"torch {torch.__version__} names its GPUs by number only: {arguments.uuid} is not known")
    raise RuntimeError(f"No CUDA GPUs are available: {arguments.uuid} is not among those torch sees ({uuids})")


def product(torch: Any, device: Any, dtype: str, size: int) -> dict[str, Any]:
    """Do one product, and keep what the check needs."""
    seed = int.from_bytes(os.urandom(7), "little")
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    a = torch.randn(size, size, generator=generator).to(kind)
    b = torch.randn(size, size, generator=generator).to(kind)
    on_a, on_b = a.to(device), b.to(device)
    out = torch.full((size, size), float("nan"), dtype=kind, device=device)
    seconds = []
    for _ in range(2):  # the first one also loads the library
        synchronize(torch, device)
        started = time.perf_counter()
        torch.matmul(on_a, on_b, out=out)
        synchronize(torch, device)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1:
            out.fill_(float("nan"))
    return {
        "dtype": dtype,
        "size": size,
        "seed": seed,
        "device": str(out.device),
        "seconds": seconds[1],
        "tflops": 2 * size**3 / seconds[1] / 1e12,
        "held": (a, b, on_a, on_b, out, generator),
    }


def synchronize(torch: Any, device: Any) -> None:
    """Wait for the device, so that a failure shows here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check(torch: Any, done: dict[str, Any]) -> dict[str, Any]:
    """Compare a product with its float64 reference on the CPU."""
    a, b, _, _, on_out, generator = done.pop("held")
    size = done["size"]
    out = on_out.cpu().double()
    b = b.double()
    rows = torch.randperm(size, generator=generator)[: min(ROWS, size)]
    reference = a[rows].double() @ b
    signs = torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1
    projected = a.double() @ (b @ signs)
    norm = torch.linalg.vector_norm
    done["not_finite"] = int((~torch.isfinite(out)).sum())
    done["rows"] = len(rows)
    done["rows_error"] = float(norm(out[rows] - reference) / norm(reference))
    done["projected_error"] = float(norm(out @ signs - projected) / norm(projected))
    done["bound"] = ROUNDOFF[done["dtype"]] + 4 * size**0.5 * ROUNDOFF["float32"]
    return done


def wait_for(release: Path, wait_s: float) -> bool:
    """Wait until the file says go on; false where nobody did in time."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if release.exists():
            return True
        time.sleep(0.02)
    return False


def main() -> None:
    """Do the products, wait, check them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--uuid")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--wait-s", type=float, default=60.0)
    arguments = parser.parse_args()
    try:
        import torch  # noqa: PLC0415 - its absence is one of the answers

        torch.set_float32_matmul_precision("highest")  # no TF32
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        device, uuid = choose(torch, arguments)
        done = []
        for dtype in ROUNDOFF:
            try:
                done.append(product(torch, device, dtype, arguments.size))
            except RuntimeError as error:  # a GPU may know one dtype and not the other
                say("error", text=f"{type(error).__name__}: {error}", dtype=dtype)
        if not done:
            return
        memory = torch.cuda if device.type == "cuda" else None
        say(
            "holding",
            pid=os.getpid(),
            ppid=os.getppid(),
            uuid=uuid,
            device=str(device),
            allocated_bytes=memory.memory_allocated(device) if memory else 0,
            reserved_bytes=memory.memory_reserved(device) if memory else 0,
        )
        if not wait_for(arguments.release, arguments.wait_s):
            say("error", text=f"nobody released this process within {arguments.wait_s:g} s")
            return
        for one in done:
            say("product", **check(torch, one))
        say("done")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer, in its own words
        say("error", text=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    main()
