"""The examples of docs/interop.md classify an image as the run does: in Python, and in a browser without a network."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from untrained_runs import classifier_run

from dim_jax import export, predict
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import files

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
# Folder `dist` of the npm package onnxruntime-web.
WEB = Path(os.environ.get("ONNXRUNTIME_WEB", "node_modules/onnxruntime-web/dist"))
WEB_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
pytestmark = pytest.mark.onnx


def example(language):
    """The code block of the page in a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.onnx, its JSON, field.png, and answer.txt: what the examples must show."""
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX is optional: pip install -e '.[onnx]'")
    root = tmp_path_factory.mktemp("example")
    data = prepare_dataset("phantom", root / "data", image_size=32, scale=0.03)
    run, site = classifier_run(root / "run", data, "--config.model.stages=((16, 24),)"), root / "site"
    assert command_line.run(export.main, [str(run), "--to=onnx", f"--out={site / 'model.onnx'}"]) == 0
    dataset = open_dataset(data)
    shutil.copyfile(dataset.file(int(dataset.rows("val")[0])), site / "field.png")
    out = root / "predictions"
    assert command_line.run(predict.main, [f"--workdir={run}", str(site / "field.png"), f"--out={out}"]) == 0
    (image,) = files.read_json(out / "predictions.json")["images"]
    (site / "answer.txt").write_text("\n".join(f"{name} {share:.4f}" for name, share in image["probabilities"].items()))
    return site


def assert_same_answers(text, folder):
    answers, expected = (
        [line.rsplit(" ", 1) for line in lines.split("\n")]
        for lines in (text.strip(), (folder / "answer.txt").read_text())
    )
    assert [name for name, _ in answers] == [name for name, _ in expected]
    shares = np.array([[float(share) for _, share in part] for part in (answers, expected)])
    np.testing.assert_allclose(shares[0], shares[1], atol=1.01e-4)
    assert shares[0].max() > 1 / len(expected)


def test_ten_lines_of_python_classify_an_image(folder):
    command = [sys.executable, "-I", "-c", "import sys; sys.modules['jax'] = None\n" + example("python"), "field.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_answers(done.stdout, folder)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.skipif(not (WEB / WEB_FILES[0]).is_file(), reason="onnxruntime-web is not here")
def test_a_page_classifies_an_image_without_a_network(folder):
    for name in WEB_FILES:
        shutil.copyfile(WEB / name, folder / name)
    (folder / "index.html").write_text(example("html"), encoding="utf-8")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}/"
    browser = Browser("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    try:
        online = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.call("Network.emulateNetworkConditions", **online)
        browser.call("Page.navigate", url=site)
        browser.wait("document.readyState === 'complete' && document.getElementById('file') !== null")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(folder / "field.png")])
        browser.wait("document.getElementById('answer').textContent !== ''")
        assert_same_answers(browser.evaluate("document.getElementById('answer').textContent"), folder)
        elsewhere = [url for url in browser.requests if not url.startswith((site, "blob:", "data:"))]
        assert not elsewhere and browser.requests
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
