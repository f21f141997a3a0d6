"""Losses, models and augmentations of another package, chosen by an import path."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import augmentation, losses
from dim_jax.augmentation.histology import augment
from dim_jax.models import make_classifier
from dim_jax.runs import config_flags, configuration, files, workdir
from dim_jax.runs.schema import LOSS
from dim_jax.trainers import classifier

PACKAGE = '''
"""A package that knows nothing of dim_jax's names."""
from typing import Annotated
import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval

def scaled(logits, labels, mask, class_counts, cross_replica_sum, *, strength: Annotated[float, Interval(ge=0)] = 1.0):
    return -strength * jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]

def another(predictions, targets):
    return 0.0

def darken(key, image):
    return image * jax.random.uniform(key, minval=0.5)

class Net(nn.Module):
    num_classes: int
    width: int = 4
    sides: tuple[int, ...] = (3,)

    @nn.compact
    def __call__(self, images, train=False, example_keys=None):
        x = images
        for side in self.sides:
            x = nn.relu(nn.Conv(self.width, (side, side), strides=4)(x))
        features = x.mean((1, 2))
        return nn.Dense(self.num_classes)(features), features
'''
NAMED = (
    "--config.loss.name=ours.parts:scaled",
    "--config.model.name=ours.parts:Net",
    "--config.augment.function=ours.parts:darken",
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "ours"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "ours"]:
        del sys.modules[name]


def parse(tmp_path, *options):
    return config_flags.parse_flags(["--config=classifier:test", f"--workdir={tmp_path / 'run'}", *options])[0]


def test_their_options_come_from_their_signatures(package, tmp_path):
    config = parse(tmp_path, *NAMED, "--config.loss.strength=2", "--config.model.sides=(3, 5)")
    assert config["loss"] == {"name": "ours.parts:scaled", "strength": 2.0}
    assert config["model"] == {"name": "ours.parts:Net", "width": 4, "sides": [3, 5]}
    parsed = configuration.parse_config(config)
    assert LOSS.of("ours.parts:scaled")["strength"].default == 1.0
    model = make_classifier(parsed.model.name, 5, **parsed.model.options)
    logits, _ = model.apply(
        model.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), False), jnp.zeros((2, 32, 32, 3)), False
    )
    assert logits.shape == (2, 5)
    parameters = losses.hyper_parameters(parsed.loss.name, parsed.loss.options)
    per_example = losses.get_loss(parsed.loss.name)(logits, jnp.array([0, 1]), None, None, None, **parameters)
    np.testing.assert_allclose(per_example, 2 * np.log(5), rtol=1e-6)


def test_an_augmentation_follows_the_others_with_a_key_for_each_image(package):
    images = jnp.full((3, 8, 8, 3), 0.5)
    keys = jax.random.split(jax.random.key(0), 3)
    darken = augmentation.get_function("ours.parts:darken")
    dark = jax.jit(lambda keys: augment(keys, images, flip=True, rotate=True, stain_jitter=0.0, function=darken))(keys)
    means = dark.mean((1, 2, 3))
    assert (means < 0.5).all() and len(set(means.tolist())) == 3
    alone = augment(keys[1:2], images[1:2], flip=True, rotate=True, stain_jitter=0.0, function=darken)
    np.testing.assert_allclose(alone[0], dark[1], rtol=1e-6)


@pytest.mark.parametrize(("option", "message"), [
    ("--config.loss.name=ours.parts:another", "is not a function .logits, labels, mask, class_counts"),
    ("--config.loss.name=os:system", "is not a function .logits, labels, mask, class_counts"),
    ("--config.loss.name=ours.parts:missing", "cannot be imported: AttributeError"),
    ("--config.loss.name=nowhere.to:be", "cannot be imported: ModuleNotFoundError"),
    ("--config.loss.name=:", "cannot be imported: ValueError"),
    ("--config.model.name=ours.parts:scaled", "is not a flax.linen module with a field num_classes"),
    ("--config.model.name=subprocess:Popen", "is not a flax.linen module with a field num_classes"),
    ("--config.augment.function=ours.parts:scaled", r"is not a function \(key, image\)"),
    ("--config.augment.function=darken", "is not an import path"),
])  # fmt: skip
def test_what_does_not_keep_the_contract_is_refused_in_one_line(package, tmp_path, option, message):
    with pytest.raises(ValueError, match=message) as caught:
        configuration.parse_config(parse(tmp_path, option))
    assert "\n" not in str(caught.value)


def test_an_option_out_of_its_range_is_refused(package, tmp_path):
    with pytest.raises(ValueError, match=r"config\.loss\.strength=-1\.0 must be a number of at least 0"):
        configuration.parse_config(parse(tmp_path, *NAMED, "--config.loss.strength=-1"))
    with pytest.raises(ValueError, match=r"config\.loss\.m is not an option of the loss ours.parts:scaled; it has str"):
        parse(tmp_path, *NAMED, "--config.loss.m=1")


def test_a_run_brings_no_code_along(package, tmp_path, monkeypatch):
    """A run directory with a module that its config.json names, opened from within: nothing of it is imported."""
    run = tmp_path / "run"
    config = parse(tmp_path, "--config.loss.name=ours.parts:scaled")
    config["loss"] = {"name": "theirs:loss"}
    files.write_json(run / "config.json", config)
    (run / "theirs.py").write_text("raise SystemExit('run')\n")
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    for read in (
        lambda: configuration.read_config(run),
        lambda: config_flags.parse_flags([f"--workdir={run}"]),
        lambda: workdir.check_config(run, config),
    ):
        with pytest.raises(ValueError, match="'theirs:loss' is code in the run directory"):
            read()
    assert "theirs" not in sys.modules


def test_a_run_is_trained_and_resumed_with_all_three(package, tmp_path):
    run = tmp_path / "run"
    config = parse(tmp_path, *NAMED, "--config.data.path=phantom", "--config.train.report=False")
    classifier.train(config, run)
    assert (run / "eval" / "test" / "metrics.json").is_file()
    saved = files.read_json(run / "config.json")
    assert saved["loss"]["name"] == "ours.parts:scaled" and saved["model"]["name"] == "ours.parts:Net"
    classifier.train(config_flags.parse_flags([f"--workdir={run}"])[0], run)
