"""Asking an index, beside the work, for torch releases that the catalog does not know. Never waited for long."""

from __future__ import annotations

import os
import threading
from typing import Final

from ongpu.errors import DoorError

_WAIT_S: Final = 1.5


class Newer:
    """A question under way: asked in a thread of its own, so that an index that hangs costs a moment and no answer."""

    def __init__(self, *, offline: bool) -> None:
        self.releases: tuple[str, ...] | None = None
        self.not_asked: str | None = None
        self._thread: threading.Thread | None = None
        index = os.environ.get("UV_DEFAULT_INDEX")
        if offline:
            self.not_asked = "--offline was given"
        elif os.environ.get("UV_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
            self.not_asked = "UV_OFFLINE is set"
        elif index and "@" in index:
            self.not_asked = "UV_DEFAULT_INDEX asks for a password, which is not sent for this"
        else:
            self._url = f"{index.rstrip('/')}/torch/" if index else None
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        from ongpu.catalog.fresh import PYPI_TORCH
        from ongpu.machine.web import RealWeb
        from ongpu.plan.refresh import releases_on_pypi

        try:
            found = releases_on_pypi(RealWeb(), timeout_s=_WAIT_S, url=self._url or PYPI_TORCH)
        except DoorError as error:
            self.not_asked = f"the index could not be asked ({error.reason})"
        else:
            self.releases = found

    def wait(self) -> None:
        """Wait for the answer, a moment at most; ``releases`` or ``not_asked`` is set afterwards."""
        if self._thread is not None:
            self._thread.join(_WAIT_S)
        if self.releases is None and self.not_asked is None:
            self.not_asked = f"the index did not answer within {_WAIT_S:g} s"
