"""What no training can be faster than: start Python, import torch, allocate one tensor on the GPU.

A line of ``benchmarks/train_plan.sh``; prints one ``RESULT {json}`` line with the seconds from process start.
"""

from __future__ import annotations

import argparse
import json
import os
import time


def main() -> None:
    """Do it, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    name = parser.parse_args().peer
    import torch  # noqa: PLC0415 - what is measured

    imported_s = time.time() - float(os.environ["PEER_T0"])
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    total_s = time.time() - float(os.environ["PEER_T0"])
    row = {"peer": name, "ok": True, "ttfs_s": round(total_s, 2), "wall50_s": round(total_s, 2)}
    print(
        "RESULT " + json.dumps(row | {"import_torch_s": round(imported_s, 2), "torch": torch.__version__}), flush=True
    )


if __name__ == "__main__":
    main()
