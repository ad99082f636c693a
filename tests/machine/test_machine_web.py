"""The door to the web, against a small server on loopback: what it fetches, and how each failure is named."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from ongpu.errors import DoorError
from ongpu.machine.web import RealWeb

pytestmark = pytest.mark.network
BODY = bytes(range(256)) * 64


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/drip":
            self._drip()
            return
        wanted = self.headers.get("Range")
        data, status = BODY, 200
        if wanted and self.path != "/norange":
            first, last = wanted.removeprefix("bytes=").split("-")
            data, status = BODY[int(first) : int(last) + 1], 206
        self.send_response(status)
        if self.path != "/nolength":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            return

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served.daemon_threads = True
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()


def test_a_document_and_a_range_of_it_are_fetched(server: str) -> None:
    web = RealWeb()
    assert web.get(f"{server}/all", timeout_s=10, limit_bytes=1 << 20) == BODY
    assert web.get(f"{server}/all", timeout_s=10, limit_bytes=1 << 20, first_byte=5, last_byte=9) == BODY[5:10]
    assert web.size_bytes(f"{server}/all", timeout_s=10) == len(BODY)


@pytest.mark.parametrize(
    ("path", "code"),
    [("/missing", "status"), ("/norange", "no-ranges"), ("/drip", "timeout"), ("/all", "too-large")],
)
def test_each_failure_has_its_name(server: str, path: str, code: str) -> None:
    first = 0 if path == "/norange" else None
    with pytest.raises(DoorError) as failed:
        RealWeb().get(f"{server}{path}", timeout_s=0.6, limit_bytes=100, first_byte=first)
    assert failed.value.code == code


def test_a_length_that_is_not_said_is_an_error(server: str) -> None:
    with pytest.raises(DoorError, match="how long"):
        RealWeb().size_bytes(f"{server}/nolength", timeout_s=5)


def test_what_cannot_be_reached_and_what_is_no_address_are_told_apart(server: str) -> None:
    closed = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    port = closed.server_address[1]
    closed.server_close()
    with pytest.raises(DoorError) as refused:
        RealWeb().get(f"http://127.0.0.1:{port}/", timeout_s=2, limit_bytes=10)
    assert refused.value.code == "unreachable"
    with pytest.raises(DoorError) as plain:
        RealWeb().get(server.replace("http:", "https:"), timeout_s=5, limit_bytes=10)
    assert plain.value.code == "tls"
    for url in ("file:///etc/hostname", "ftp://x/y", ""):
        with pytest.raises(DoorError) as bad:
            RealWeb().get(url, timeout_s=2, limit_bytes=10)
        assert bad.value.code == "bad-url"


def test_secrets_in_an_address_are_not_repeated() -> None:
    with pytest.raises(DoorError) as failed:
        RealWeb().get("ftp://user:hunter2@host/path?token=hunter3", timeout_s=1, limit_bytes=1)
    assert "hunter" not in failed.value.reason
