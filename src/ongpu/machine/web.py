"""The door to package indexes and files on the web: one request, a limit in time and in size, errors named.

The standard library's client is used as it is: it honors the proxy and certificate settings of the system.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import Protocol

from ongpu.errors import DoorError

_CHUNK_BYTES = 1 << 18
_AGENT = "ongpu"


class Web(Protocol):
    """What the rooms ask of the web."""

    def get(
        self,
        url: str,
        *,
        timeout_s: float,
        limit_bytes: int,
        accept: str | None = None,
        first_byte: int | None = None,
        last_byte: int | None = None,
    ) -> bytes:
        """Fetch a document, or a range of one.

        :param timeout_s: for the whole of it, slow drips included.
        :param limit_bytes: a longer answer is an error.
        :param first_byte: of a range; ``last_byte`` is inclusive, as in HTTP. The server must honor it.
        :raises DoorError: door ``index``, code ``bad-url``, ``unreachable``, ``tls``, ``status``, ``timeout``,
            ``too-large`` or ``no-ranges``.
        """
        ...

    def size_bytes(self, url: str, *, timeout_s: float) -> int:
        """How long a file is. Raises :class:`DoorError` as ``get`` does."""
        ...


class RealWeb:
    """The web as it can be reached from here."""

    def get(
        self,
        url: str,
        *,
        timeout_s: float,
        limit_bytes: int,
        accept: str | None = None,
        first_byte: int | None = None,
        last_byte: int | None = None,
    ) -> bytes:
        """Fetch a document or a range; see :meth:`Web.get`."""
        headers = {"Accept": accept} if accept else {}
        if first_byte is not None:
            headers["Range"] = f"bytes={first_byte}-{'' if last_byte is None else last_byte}"
        return _fetch(url, headers=headers, timeout_s=timeout_s, limit_bytes=limit_bytes)

    def size_bytes(self, url: str, *, timeout_s: float) -> int:
        """How long a file is; see :meth:`Web.size_bytes`."""
        with _open(url, headers={}, timeout_s=timeout_s, method="HEAD") as answer:
            length = answer.headers.get("Content-Length")
        if length is None or not length.isdigit():
            raise DoorError(door="index", code="status", reason=f"{_shown(url)} does not say how long it is")
        return int(length)


def _fetch(url: str, *, headers: dict[str, str], timeout_s: float, limit_bytes: int) -> bytes:
    deadline = time.monotonic() + timeout_s
    with _open(url, headers=headers, timeout_s=timeout_s, method="GET") as answer:
        if "Range" in headers and answer.status != 206:
            raise DoorError(door="index", code="no-ranges", reason=f"{_shown(url)} cannot be read in parts")
        kept: list[bytes] = []
        size = 0
        while True:
            if time.monotonic() > deadline:
                raise DoorError(door="index", code="timeout", reason=f"{_shown(url)} took longer than {timeout_s:g} s")
            try:
                piece = answer.read1(_CHUNK_BYTES)
            except TimeoutError:
                continue  # the deadline above decides
            except (OSError, http.client.HTTPException) as error:
                raise DoorError(door="index", code="unreachable", reason=f"{_shown(url)}: {error}") from error
            if not piece:
                return b"".join(kept)
            size += len(piece)
            if size > limit_bytes:
                raise DoorError(
                    door="index", code="too-large", reason=f"{_shown(url)} is longer than {limit_bytes} bytes"
                )
            kept.append(piece)


def _open(url: str, *, headers: dict[str, str], timeout_s: float, method: str) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://")):
        raise DoorError(door="index", code="bad-url", reason=f"{_shown(url)} is no web address")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _AGENT, **headers}, method=method)  # noqa: S310 - checked above
        # A short limit for each read lets the loop look at the clock while a server drips.
        answer = urllib.request.urlopen(request, timeout=min(timeout_s, 5.0))  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        error.close()
        raise DoorError(door="index", code="status", reason=f"{_shown(url)} answers {error.code}") from error
    except urllib.error.URLError as error:
        code = "tls" if isinstance(error.reason, ssl.SSLError) else "unreachable"
        code = "timeout" if isinstance(error.reason, TimeoutError) else code
        raise DoorError(door="index", code=code, reason=f"{_shown(url)}: {error.reason}") from error
    except TimeoutError as error:
        raise DoorError(door="index", code="timeout", reason=f"{_shown(url)} does not answer") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DoorError(door="index", code="unreachable", reason=f"{_shown(url)}: {error}") from error
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def _shown(url: str) -> str:
    """A URL without what may be a secret: the part before ``@``, and the query."""
    scheme, _, rest = url.partition("://")
    host = rest.split("?", 1)[0]
    if "@" in host.split("/", 1)[0]:
        host = host.split("@", 1)[1]
    return f"{scheme}://{host}" if rest else scheme
