"""A headless Chromium, driven by its DevTools protocol over a pipe: no port, and no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWER_S = 60.0


class Browser:
    """One page of one browser.

    Attributes:
        complaints: what the page's script threw, and what the browser refused it.
        requests: addresses that it asked for.
    """

    def __init__(self, to: int, back: int) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._to, self._back, self._number, self._session = to, back, 0, ""
        self._unread = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # keys go to it

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser; what it answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + ANSWER_S
        while True:
            answer = self._next(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._notice(answer)

    def run(self, script: str) -> Any:
        """What an expression comes to in the page."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, what: str, seconds: float = ANSWER_S) -> Any:
        """Wait until an expression comes to something true, and return that."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"not in time: {what}; {self.complaints}"
            select.select([self._back], [], [], 0.05)
        return value

    def key(self, key: str) -> None:
        """Press a key that has a name."""
        code = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, file: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Take a picture of the whole page."""
        self.look(width, height, dark=dark)
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of its window, and what its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            left = until - time.monotonic()
            assert select.select([self._back], [], [], max(0.0, left))[0], "the browser does not answer"
            part = os.read(self._back, 1 << 20)
            assert part, "the browser has ended"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _notice(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"].get("exception", about))[:400])
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(about["entry"]["text"][:400])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])


@contextmanager
def browser() -> Iterator[Browser]:
    """Start one with an empty profile; nothing is left of it."""
    assert CHROMIUM
    (their_in, to), (back, their_out) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="quire-chromium-", ignore_cleanup_errors=True) as profile:
        command = [
            CHROMIUM, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--mute-audio",
            f"--user-data-dir={profile}",
        ]  # fmt: skip

        def pipes() -> None:
            first, second = os.dup(their_in), os.dup(their_out)  # 3 and 4 may be among them
            os.dup2(first, 3)
            os.dup2(second, 4)

        process = subprocess.Popen(
            command, preexec_fn=pipes, pass_fds=(3, 4, their_in, their_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            os.close(their_in)
            os.close(their_out)
            yield Browser(to, back)
        finally:
            os.close(to)
            os.close(back)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
