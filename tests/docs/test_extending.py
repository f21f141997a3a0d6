"""The changes of docs/extending.md apply to a copy of the checkout, are short, and do what the page says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dim_jax.data import manifest as manifests
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import pools

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MOST_LINES = 40
DIFFS = dict(zip(("loss", "model", "generator", "data set"), re.findall(r"```diff\n(.*?)```", PAGE, re.S), strict=True))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package with all changes of the page."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dim_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, diff in DIFFS.items():
        done = subprocess.run(["git", "apply", "-v", "-"], input=diff, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=64, scale=0.03)


def run(checkout, *arguments):
    """Runs python -m ARGUMENTS in the copy; returns its output."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", DIFFS)
def test_a_change_is_short(name):
    assert len(DIFFS[name].splitlines()) < MOST_LINES


OWN_PARTS = """
import jax, numpy as np
from dim_jax import losses, models

loss, plain = losses.get_loss("mypackage.losses:smoothed"), losses.get_loss("cross_entropy")
logits, labels = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 2, 2], np.int32)
others = np.ones(4, np.float32), np.array([8, 4, 1], np.float32), lambda array: array
values = {share: jax.jit(lambda labels: loss(logits, labels, *others, smoothing=share))(labels) for share in (0.0, 0.5)}
np.testing.assert_allclose(values[0.0], plain(logits, labels, *others), rtol=1e-6)
assert (values[0.5] != values[0.0]).all()
model = models.make_classifier("mypackage.nets:Plain", 3, widths=(8, 16))
images = np.zeros((2, 16, 16, 3), np.float32)
outputs, _ = jax.jit(lambda key: model.init_with_output(key, images))(jax.random.key(0))
assert [output.shape for output in outputs] == [(2, 3), (2, 16)]
"""


def test_a_loss_and_a_model_of_another_package_are_those_of_a_configuration(checkout, data, tmp_path):
    options = ["--config=classifier:test", f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}", "--dry-run"]
    options += ["--config.loss.name=mypackage.losses:smoothed", "--config.loss.smoothing=0.2"]
    options += ["--config.model.name=mypackage.nets:Plain", "--config.model.widths=(8,16)"]
    output = run(checkout, "dim_jax.train", *options)
    assert "loss.smoothing = 0.2" in output and "model.widths = [8, 16]" in output
    (checkout / "own_parts.py").write_text(OWN_PARTS)
    run(checkout, "own_parts")


def test_a_generator_of_another_package_writes_a_pool_that_can_be_read(checkout, data, tmp_path):
    run(checkout, "mypackage.mix_images", data, "low_grade_in", tmp_path / "pool")
    (pool,) = pools.load(tmp_path / "pool")
    assert pool.label == "low_grade_in" and len(pool.images) == 32
    assert (pool.folder / "card.json").is_file()


def test_a_data_set_of_tensorflow_datasets_is_prepared(checkout, tmp_path):
    rng = np.random.default_rng(0)
    for number, folder in enumerate(("Normal", "Polyp")):
        for case in range(5):
            path = tmp_path / "downloads" / "set" / folder / f"GT{number}{case}-1-400-001.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(path)
    options = [
        f"--manual-dir={tmp_path / 'downloads'}",
        f"--data-dir={tmp_path / 'tfds'}",
        f"--out={tmp_path / 'data'}",
    ]
    run(checkout, "dim_jax.prepare", "--source=tfds:my_polyps", *options)
    manifest = manifests.load(tmp_path / "data")
    assert manifest.classes == ("normal", "polyp") and len(manifest) == 10
