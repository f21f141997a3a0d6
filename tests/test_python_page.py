"""The examples of docs/python.md and the README's run as they stand."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.data import phantom

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_examples_run(tmp_path, monkeypatch):
    network, loss, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for number, image in enumerate(phantom.plan(0.03)[:2], start=1):
        Image.fromarray(phantom.draw(image, 64)).save(f"field{number}.png")
    results = {}
    exec(network.replace("adjust=True", "views=False, adjust=False"), results)  # one view compiles in less time
    assert results["answers"].probabilities.shape == (2, 5)
    assert len(results["answers"].predicted) == 2
    results = {}
    exec(loss, results)
    assert np.isfinite(results["loss"])
