"""Which CUDA version first knew a PTX ISA version.

Source: "PTX ISA" of the CUDA documentation, section "Release Notes" (ISA version against CUDA release), as NVIDIA's
own cuda-python carries it up to 9.1 (``cuda/bindings/utils/_ptx_utils.py``); 8.8 and 9.0 were also read from entries
that the toolkits 12.9 and 13.0 wrote.
"""

from __future__ import annotations

from typing import Final

from ongpu.domain.arch import RuntimeVersion

_FIRST_CUDA: Final = {
    (6, 0): (9, 0), (6, 1): (9, 1), (6, 2): (9, 2), (6, 3): (10, 0), (6, 4): (10, 1), (6, 5): (10, 2),
    (8, 0): (12, 0), (8, 1): (12, 1), (8, 2): (12, 2), (8, 3): (12, 3), (8, 4): (12, 4), (8, 5): (12, 5),
    (8, 6): (12, 7), (8, 7): (12, 8), (8, 8): (12, 9),
}  # fmt: skip


def cuda_of_isa(text: str) -> RuntimeVersion | None:
    """The CUDA version a driver must have to compile PTX of this ISA version; ``None`` where it is not known.

    ISA 7.x is CUDA 11.x, and 9.x is CUDA 13.x, minor for minor (9.2 and up: by the same rule, not by that table).
    """
    try:
        major, minor = (int(part) for part in text.split("."))
    except ValueError:
        return None
    if major in (7, 9):
        return RuntimeVersion(major=major + 4, minor=minor)
    found = _FIRST_CUDA.get((major, minor))
    if found is None and major < 6:
        found = (8, 0)
    return RuntimeVersion(major=found[0], minor=found[1]) if found else None
