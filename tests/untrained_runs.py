"""Run directories of networks with random weights and random batch statistics, made without training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.data.dataset import open_dataset
from dim_jax.interop.imported_runs import RunContents, write_run
from dim_jax.models import make_classifier, make_gan
from dim_jax.runs import config_flags
from dim_jax.training import loop

CONFIGS = Path(__file__).parents[1] / "configs"


def _varied(tree, seed, scale):
    """Adds noise to float leaves, and keeps variances positive: no weight is at a value that hides what it does."""
    rng = np.random.default_rng(seed)

    def vary(path, leaf):
        leaf = np.array(leaf)
        noisy = leaf + scale * rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return np.abs(noisy) + 0.1 if path[-1].key == "var" else noisy

    return jax.tree_util.tree_map_with_path(vary, tree)


def classifier_run(run, data, *overrides, seed=0, input_shape=None):
    """Writes the run of a classifier of images, or of inputs of another shape; overrides are --config.FIELD=VALUE."""
    flags = [f"--config={CONFIGS / 'classifier.py'}:test", f"--config.data.path={data}", f"--workdir={run}"]
    config, *_ = config_flags.parse_flags([*flags, *overrides])
    dataset = open_dataset(data)
    options = {name: value for name, value in config["model"].items() if name != "name"}
    model = make_classifier(config["model"]["name"], len(dataset.classes), **options)
    side = config["data"]["image_size"]
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, *(input_shape or (side, side, 3)))))
    state = {name: _varied(variables.get(name, {}), seed, 0.05) for name in ("params", "batch_stats")}
    write_run(run, RunContents(config, dataset, {loop.BEST: (seed + 1, state)}), {})
    return run


def gan_run(run, data, *overrides):
    """Writes the run of a GAN; overrides are --config.FIELD=VALUE."""
    flags = [f"--config={CONFIGS / 'gan.py'}:test", f"--config.data.path={data}", f"--workdir={run}"]
    config, *_ = config_flags.parse_flags([*flags, *overrides])
    dataset = open_dataset(data)
    num_classes = len(dataset.classes) if config["gan"]["conditional"] else 0
    generator, _ = make_gan(config["data"]["image_size"], num_classes, **config["model"])
    labels = jnp.zeros(1, jnp.int32) if num_classes else None
    variables = generator.init(jax.random.key(0), jnp.zeros((1, generator.latent_size)), True, labels)
    params = _varied(variables["params"], 0, 0.05)
    state = {"generator": {**variables, "params": params}, "ema_params": params}
    write_run(run, RunContents(config, dataset, {loop.CHECKPOINTS: (9, jax.device_get(state))}), {})
    return run
