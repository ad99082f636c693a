"""Open a page of ``ongpu report`` in a real headless Chromium, use it, and look: content, console, keyboard, print.

    python tools/look_at_report.py PAGE.html OUT [--chromium /usr/bin/chromium]

Speaks to the browser over its own pipe, so nothing but the standard library and a Chromium is needed. Writes
screenshots (light, dark, narrow, zoomed in by the keyboard) and a PDF into OUT, and leaves with 1 where something is
wrong: a console message, an exception, a request, an alert, a chart that drew nothing or did not answer a key.
It is no part of the test suite, which must run where no browser is.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_PATIENCE_S = 60.0


class Browser:
    """One Chromium over ``--remote-debugging-pipe``: messages are JSON, each ended by a zero byte."""

    def __init__(self, chromium: str, profile: Path) -> None:
        commands_read, self._write = os.pipe()
        self._read, answers_write = os.pipe()
        # The browser reads its commands from descriptor 3 and writes its answers to 4.
        line = f'exec 3<&{commands_read} 4>&{answers_write}; exec "$@"'
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={profile}", "about:blank"]
        self._child = subprocess.Popen(
            ["bash", "-c", line, "bash", *words],
            pass_fds=(commands_read, answers_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_read)
        os.close(answers_write)
        self._number = 0
        self._held = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        """Attach to the first page."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            targets = self.call("Target.getTargets")["targetInfos"]
            page = next((one for one in targets if one["type"] == "page"), None)
            if page is not None:
                break
            assert time.monotonic() < deadline, "the browser opened no page"
            time.sleep(0.1)
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser that was started here."""
        self._child.terminate()
        self._child.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; returns its result, and keeps the events that came before it."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            data = os.read(self._read, 1 << 16)
            assert data, "the browser has gone"
            self._held += data
        one, self._held = self._held.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(one)
        return answer

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        """One key, as a keyboard gives it."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_CODES.get(key, 0))

    def screenshot(self, path: Path, *, width: int) -> None:
        """The whole page, however long."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        time.sleep(0.3)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))


_CODES = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Escape": 27, "+": 187}
# How many pixels of a chart's canvas are painted at all.
_PAINTED = """Array.from(document.querySelectorAll('.plot canvas')).map(c => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 3; i < d.length; i += 4) if (d[i]) n++; return n; })"""


def look(page: Path, out: Path, chromium: str) -> list[str]:
    """Use the page; returns what is wrong with it."""
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        Browser(chromium, Path(profile)) as browser,
    ):
        browser.call("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)
        browser.call("Page.navigate", url=page.resolve().as_uri())
        time.sleep(1.5)
        charts = browser.value("document.querySelectorAll('.plot').length")
        painted = browser.value(_PAINTED)
        print(f"title: {browser.value('document.title')}")
        print(f"charts: {charts}, painted pixels: {painted}")
        if len(painted) != charts or any(count == 0 for count in painted):
            wrong.append("a chart drew nothing")
        browser.screenshot(out / "light.png", width=1100)
        browser.screenshot(out / "narrow.png", width=420)
        if browser.value("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wrong.append("the page is wider than a narrow window")
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        browser.screenshot(out / "dark.png", width=1100)
        wrong += _keyboard(browser, charts, out)
        # Printed from a dark screen: paper is light all the same.
        pdf = browser.call("Page.printToPDF", printBackground=False)["data"]
        (out / "page.pdf").write_bytes(base64.b64decode(pdf))
        wrong += _heard(browser, page)
    return wrong


def _keyboard(browser: Browser, charts: int, out: Path) -> list[str]:
    """Reach the first chart by Tab alone, move its cursor, zoom, and come back."""
    if not charts:
        return []
    reached = False
    for _ in range(40):
        browser.press("Tab")
        if browser.value("document.activeElement.classList.contains('plot')"):
            reached = True
            break
    if not reached:
        return ["no chart is reached by the Tab key"]
    said = "document.activeElement.parentElement.querySelector('.readout').textContent"
    browser.press("End")
    last = browser.value(said)
    browser.press("Home")
    first = browser.value(said)
    browser.press("ArrowRight")
    second = browser.value(said)
    print(f"readout by keys: {first!r}, {second!r}, {last!r}")
    before = browser.value(_PAINTED)
    browser.press("+")
    time.sleep(0.3)
    browser.screenshot(out / "zoomed.png", width=1100)
    zoomed = browser.value(_PAINTED)
    browser.press("Escape")
    time.sleep(0.3)
    wrong = [] if len({first, second, last}) == 3 and all((first, second, last)) else ["the arrow keys say nothing new"]
    return wrong if zoomed != before else [*wrong, "the keys do not zoom"]


def _heard(browser: Browser, page: Path) -> list[str]:
    """What the browser complained of, or asked for."""
    wrong = []
    for event in browser.events:
        detail = event.get("params", {})
        if "willReadFrequently" in json.dumps(detail):
            continue  # of our own reading of the pixels, not of the page
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                wrong.append(f"console: {json.dumps(detail)[:400]}")
            case "Page.javascriptDialogOpening":
                wrong.append(f"a dialog opened: {detail.get('message')}")
            case "Network.requestWillBeSent":
                url = detail["request"]["url"]
                if url not in {page.resolve().as_uri(), "data:,", "about:blank"}:
                    wrong.append(f"it asked for {url[:200]}")
    return wrong


def main() -> int:
    """Look at one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    options = parser.parse_args()
    if options.chromium is None:
        print("There is no chromium here: name one with --chromium.", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    wrong = look(options.page, options.out, options.chromium)
    for one in wrong:
        print(f"WRONG: {one}")
    print(f"{'nothing wrong' if not wrong else f'{len(wrong)} wrong'}; pictures in {options.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
