"""Run cells under ``ongpu.notebook.guard`` in a real Jupyter kernel, and check what they leave.

    python tools/try_notebook.py FOLDER [--device cuda]

Needs a Python with ongpu, torch, ipykernel and nbclient (which are no dependencies of ours). Leaves with 1 unless the
first part ends refuted on the CPU (proven with ``--device cuda``), an error in a cell stays the cell's own and is
kept with its cause, a nonce is answered, and the kernel's way with Ctrl-C is what it was.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

_CELLS = (
    """
import signal
import torch
before = signal.getsignal(signal.SIGINT)
device = {device!r}
def train(steps, width=4096):
    model = torch.nn.Linear(width, width).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(256, width, device=device)).pow(2).mean().backward()
        optimizer.step()
""",
    """
from ongpu.notebook import guard
with guard(evidence="first") as first:
    train({steps})
""",
    """
assert first.report.verdict.outcome.value == {expected!r}, first.report.verdict.reason
try:
    with guard(evidence="second") as second:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
except RuntimeError:
    pass
assert second.report.verdict.outcome.value != "proven"
assert second.report.failure.cause == "wheel-no-arch"
nonce = "0123456789abcdef" * 4
with guard(evidence="third", nonce=nonce) as third:
    assert torch.initial_seed() == third.seed
    train({steps}, width=8192)  # more than the kernel still holds of the first part
assert third.report.verdict.outcome.value == {expected!r}, third.report.verdict.reason
from pathlib import Path
from ongpu.evidence.check import check
for name, asked in (("first", None), ("second", None), ("third", nonce)):
    report = check(Path(name), nonce=asked)
    assert not report.problems, report.problems
    assert (report.outcome.value == "proven") == ({expected!r} == "proven" and name != "second")
assert signal.getsignal(signal.SIGINT) is before
print("as it should be")
""",
)


def main() -> int:
    """Run the cells."""
    nbclient, nbformat = importlib.import_module("nbclient"), importlib.import_module("nbformat")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder for the bundles")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cuda = options.device == "cuda"
    words = {"device": options.device, "steps": 2000 if cuda else 5, "expected": "proven" if cuda else "refuted"}
    cells = [nbformat.v4.new_code_cell(_CELLS[0].format(**words))]
    cells += [nbformat.v4.new_code_cell(cell.format(**words)) for cell in _CELLS[1:]]
    book = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(options.folder)}}
    try:
        nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    except nbclient.exceptions.CellExecutionError as error:
        print(error)
        return 1
    for cell in book.cells:
        for output in cell.outputs:
            print(output.get("text", "").rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
