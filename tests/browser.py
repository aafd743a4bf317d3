"""A headless Chromium for tests, driven over a pipe: no driver, no port, no further package.

The DevTools protocol is JSON ended by a zero byte, on two file descriptors that Chromium takes as
3 and 4. Every request of the page and every message on its console is kept.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on this machine: apt-get install chromium"
LIMIT_SECONDS = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Bash, because the shell of POSIX moves no descriptor above 9.
MOVE_PIPES = 'read_from=$0; write_to=$1; shift; exec "$@" 3<&"$read_from" 4>&"$write_to"'


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a running Chromium."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._last, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    def show(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Set the size of the screen in CSS pixels, and the theme the person prefers."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Go to an address and wait until the page has loaded."""
        self.events.clear()
        self._send("Page.navigate", url=address)
        self._until(lambda: any(e["method"] == "Page.loadEventFired" for e in self.events))

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; AssertionError when it throws."""
        found = self._send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = LIMIT_SECONDS) -> Any:
        """Ask until the value is true, and return it; AssertionError after some seconds."""
        limit = time.monotonic() + seconds
        while not (found := self.ask(expression)):
            assert time.monotonic() < limit, f"{expression} did not become true"
            time.sleep(0.1)
        return found

    def press(self, key: str) -> None:
        """Press and release a key, for example "Tab" or "Enter"."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self._send("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self._send("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page."""
        shot = self._send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for since it was opened."""
        return [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and what was thrown, since the page was opened."""
        found = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                entry = params["entry"]
                if entry["level"] in ("error", "warning"):
                    found.append(f"{entry['text']} {entry.get('url', '')}")
            elif params.get("type") in ("error", "warning", "assert"):
                found.append(str(params.get("args", params)))
        return found

    def _send(self, method: str, **params: Any) -> Mapping[str, Any]:
        self._last += 1
        number = self._last
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        answer: dict[str, Any] = {}

        def answered() -> bool:
            nonlocal answer
            found = [e for e in self.events if e.get("id") == number]
            answer = found[0] if found else {}
            return bool(found)

        self._until(answered, keep=True)
        self.events = [e for e in self.events if "method" in e]
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _until(self, done: Any, *, keep: bool = False) -> None:
        """Read what Chromium says until something has happened."""
        limit = time.monotonic() + LIMIT_SECONDS
        while not done():
            left = limit - time.monotonic()
            ready = select.select([self._answers], [], [], max(0.0, left))[0]
            assert ready, "Chromium did not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium has ended"
            *whole, self._rest = (self._rest + part).split(b"\0")
            self.events += [json.loads(message) for message in whole]


@contextlib.contextmanager
def chromium(scratch: Path) -> Iterator[Page]:
    """Run Chromium with a profile of its own in `scratch` and give its page."""
    path = find_chromium()
    assert path is not None, MISSING
    (theirs_in, commands), (answers, theirs_out) = os.pipe(), os.pipe()
    arguments = [str(theirs_in), str(theirs_out), path, *FLAGS, f"--user-data-dir={scratch}"]
    with (scratch / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", MOVE_PIPES, *arguments],
            pass_fds=(theirs_in, theirs_out),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)  # Chromium ends when its pipe does
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
