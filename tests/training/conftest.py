"""One thread for torch: on a shared machine two spinning threads per test cost minutes, and sums stay the same.

torch is imported here, before the walls of the top conftest close ``CDLL`` for each test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _kernels_of_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What GPU tests compile is kept for each other, not for the user."""
    monkeypatch.setitem(os.environ, "ONGPU_KERNEL_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")  # for children
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
