"""A headless Chromium without a network, driven by the DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP*~NOTFOUND",
)
PATIENCE = 60  # seconds
FIGURE = "[...document.querySelectorAll('figure.embedding')]"


class Browser:
    """A headless Chromium with one page, driven by the DevTools protocol over two pipes.

    Attributes:
      complaints: errors and warnings of the page since it was opened.
      requests: addresses that it asked for.
    """

    def __init__(self, *flags: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._profile, self._number, self._rest, self._events = tempfile.mkdtemp(), 0, b"", []
        hears, self._writes = os.pipe()
        self._reads, speaks = os.pipe()

        def to_three_and_four() -> None:
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (hears, speaks)]
            for end, number in zip(high, (3, 4), strict=True):
                os.dup2(end, number)

        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=to_three_and_four, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(hears)
        os.close(speaks)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", **offline)

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events received before it are recorded."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready = select.select([self._reads], [], [], max(0, until - time.monotonic()))[0]
            part = os.read(self._reads, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            # plotly reads its canvas back more often than Chromium likes, which is no fault of the page.
            if "willReadFrequently" not in params["entry"]["text"]:
                self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, page: Path, width: int = 1400, height: int = 1000, colours: str = "light", media: str = "") -> None:
        """Opens a file in a window of this size and waits until it is loaded."""
        self.complaints.clear()
        self.requests.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": colours}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses and releases keys one after the other, for example "a" or "ArrowLeft"."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def write(self, text: str) -> None:
        """Writes text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def save_downloads(self, folder: Path) -> None:
        """Lets the page save files into a folder."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def wait(self, expression: str) -> None:
        """Waits until a JavaScript expression becomes true."""
        until = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < until, (f"never true: {expression}", self.complaints)
            time.sleep(0.1)

    def scroll_to_cloud(self, number: int = 0) -> None:
        """Scrolls to an interactive figure and waits until it is rendered."""
        self.evaluate(f"{FIGURE}[{number}].scrollIntoView()")
        self.wait(f"{FIGURE}[{number}].dataset.rendered === 'yes'")

    def picture(self, selector: str | None = None) -> bytes:
        """Returns a PNG of what the window shows, or of one element."""
        area = {}
        if selector:
            box = f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect(); "
            box += (
                "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1} })()"
            )
            area = {"clip": self.evaluate(box), "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **area)["data"])

    def close(self) -> None:
        """Ends the browser and removes its profile."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._reads)
        os.close(self._writes)
        shutil.rmtree(self._profile, ignore_errors=True)
