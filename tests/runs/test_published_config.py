"""configs/published.py against the description of the published code, and docs/differences.md against both."""

import re
from pathlib import Path

import pytest

from dim_jax.runs import config_flags, configuration, workdir

ROOT = Path(__file__).parents[2]


def fields(name, variant=""):
    return workdir.flatten_config(configuration.complete(config_flags.load_file(f"{name}:{variant}").to_dict()))


def test_the_classifier_is_trained_as_published():
    config = fields("published")
    published = {
        "data.image_size": 299, "data.resize": "squash", "data.mean": [0.5203, 0.3638, 0.6511],
        "data.std": [0.2339, 0.2535, 0.1455], "augment.flip": False, "augment.rotate": False,
        "augment.stain_jitter": 0.0, "model.name": "lrf_cnn", "model.width": 1.0, "loss.name": "published_fafl",
        "loss.alpha0": 0.5, "loss.beta0": 3.0, "loss.m": 1.0, "loss.adaptive": 1.0, "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-4, "optimizer.weight_decay": 1e-5, "optimizer.schedule": "step",
        "optimizer.warmup_epochs": 0.0, "optimizer.decay_epochs": 20.0, "optimizer.decay_rate": 0.5,
        "train.global_batch_size": 8, "train.num_epochs": 100.0, "train.best_metric": "accuracy",
    }  # fmt: skip
    assert {name: config[name] for name in published} == published


def test_the_gan_is_trained_as_published():
    config = fields("published", "gan")
    published = {
        "data.image_size": 1024, "gan.perceptual": "lpips_vgg16", "gan.sum_reconstructions": True,
        "gan.clip_targets": False, "gan.small_image": "nearest", "gan.ema_decay": 0.999, "gan.statistics": "batch",
        "augment.flip": True, "augment.rotate": False, "augment.diff_augment": True, "augment.shared": False,
        "augment.adaptive_target": 0.0, "model.width": 1.0, "model.gate": "gc", "model.up": "residual",
        "model.context": "map", "model.tanh": True, "optimizer.name": "rmsprop", "optimizer.learning_rate": 2e-4,
        "train.num_train_steps": 80_000, "train.global_batch_size": 2,
    }  # fmt: skip
    assert {name: config[name] for name in published} == published


@pytest.mark.parametrize(("title", "trainer", "variant"), [("Classifier", "classifier", ""), ("GCGAN", "gan", "gan")])
def test_every_field_that_the_differences_name_exists_and_is_restored(title, trainer, variant):
    text = (ROOT / "docs" / "differences.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    ours, published = fields(trainer), fields("published", variant)
    rows = [row.split("|") for row in text.splitlines() if row.startswith("|")][2:]
    named = [name for row in rows for name in re.findall(r"`([a-z]+\.[a-z_0-9]+)(?:=[^`]*)?`", row[4])]
    assert len(named) >= 10
    for name in named:
        # A tanh at 1024 px is what both do.
        assert name == "model.tanh" or published[name] != ours[name], name


def test_an_unknown_variant_is_reported():
    with pytest.raises(ValueError, match="use gan or test"):
        fields("published", "small")
