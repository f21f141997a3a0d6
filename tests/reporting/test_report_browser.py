"""The report in a headless browser without a network: no console errors, all images visible, interactive t-SNE."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, make_run
from test_report_figures import complete

from dim_jax.cli import command_line
from dim_jax.reporting import report_files

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


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two complete runs, the second with names that would be markup or code if anything let them."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [complete(make_run(folder / "a")), complete(make_run(folder / "<b>b</b>", HOSTILE, seed=1))]
    return report_files.write_report(runs, folder / "report.html")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_page_opens_offline_without_complaint(browser: Browser, page: Path, width: int, colours: str) -> None:
    browser.open(page, width=width, colours=colours)
    browser.scroll_to_cloud()
    assert browser.complaints == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in browser.requests)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_images_are_visible(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("document.images.length") > 20
    assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate(
        "[...document.querySelectorAll('main svg[role=img]')]"
        ".filter((one) => one.checkVisibility()).every((one) => one.getBoundingClientRect().width > 100)"
    )


def test_the_cloud_has_every_point_and_shows_pixels(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    num_points = "document.querySelector('.cloud').data.reduce((sum, trace) => sum + trace.x.length, 0)"
    assert (
        browser.evaluate(num_points)
        == browser.evaluate("Number(document.querySelector('.embedding small').textContent.match(/\\d+/)[0])")
        == 18
    )
    assert browser.evaluate("document.querySelector('.cloud canvas').getBoundingClientRect().width") > 300
    assert browser.evaluate("getComputedStyle(document.querySelector('.static')).display") == "none"
    before = browser.picture("figure.embedding .cloud")
    browser.evaluate(
        "Plotly.relayout(document.querySelector('.cloud'), {'scene.camera.eye': {x: -1, y: 1, z: 1}}).then(() => 0)"
    )
    browser.wait("document.querySelector('.cloud').layout.scene.camera.eye.x === -1")
    time.sleep(0.5)
    assert browser.picture("figure.embedding .cloud") != before


def test_the_cloud_can_be_saved_as_a_picture(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    saved = browser.evaluate(
        "Plotly.toImage(document.querySelector('.cloud'), {format: 'png', width: 400, height: 300})"
    )
    assert saved.startswith("data:image/png;base64,") and len(saved) > 2000
    assert browser.complaints == []


def test_names_in_the_cloud_are_literal(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud(1)
    labels = browser.evaluate(f"[...{FIGURE}[1].querySelectorAll('.legendtext')].map((label) => label.textContent)")
    assert labels == [command_line.printable(name) for name in HOSTILE]
    assert browser.complaints == []


def test_colours_follow_the_system(browser: Browser, page: Path) -> None:
    def colour() -> str:
        return browser.evaluate("document.querySelector('.cloud').data[0].marker.color")

    browser.open(page, colours="light")
    browser.scroll_to_cloud()
    light = colour()
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(f"document.querySelector('.cloud').data?.[0].marker.color !== {json.dumps(light)}")
    assert colour().startswith("#") and colour() != light


def test_print_uses_the_static_figure(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.querySelector('.static svg').getBoundingClientRect().width") > 200
    assert not browser.evaluate("document.querySelector('.cloud').checkVisibility()")


def test_links_hold_the_same_numbers_as_the_files(browser: Browser, page: Path) -> None:
    browser.open(page)
    links = browser.evaluate(
        "Promise.all([...document.querySelectorAll('a.csv')].map(async (link) => [link.download, "
        "new TextDecoder().decode(Uint8Array.from(atob(link.href.split(',')[1]), (one) => one.charCodeAt(0)))]))"
    )
    files = [path.read_text(encoding="utf-8") for path in sorted(page.with_name("report_data").glob("*/*.csv"))]
    assert sorted(text for _, text in links) == sorted(files)
    assert all(name.endswith(".csv") for name, _ in links) and len({name for name, _ in links}) == len(links)


def test_without_webgl_the_static_figure_is_shown(page: Path) -> None:
    browser = Browser("--disable-3d-apis")
    try:
        browser.open(page)
        browser.wait("document.querySelector('figure.embedding').dataset.refused === 'no WebGL'")
        assert browser.evaluate("document.querySelector('.static svg').getBoundingClientRect().width") > 300
        assert browser.complaints == []
    finally:
        browser.close()
