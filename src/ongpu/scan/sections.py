"""What an executable's section table says, whichever format it has."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """One section with bytes in the file. ``data`` is true for loaded, non-executable content."""

    name: str
    offset: int
    size: int
    data: bool
    """Worth searching for containers that no section announces."""

    @property
    def end(self) -> int:
        """The offset just past it."""
        return self.offset + self.size
