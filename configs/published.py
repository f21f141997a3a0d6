"""Every choice of the published code, for both trainers; docs/differences.md says what each field changes.

    python -m dim_jax.train --config=configs/published.py --config.data.path=DATA --workdir=runs/published
    python -m dim_jax.train --config=configs/published.py:gan --config.data.path=DATA --config.gan.label=normal \\
        --config.gan.vgg_weights=vgg16-397923af.pth --config.gan.lpips_weights=vgg.pth --workdir=runs/gan_normal

Variants, after a colon:
  gan   GCGAN at 1024 px; the same as configs/gan.py:published
  test  the classifier in seconds: one narrow block, 32 px, one epoch
"""

import runpy
from pathlib import Path

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "gan", "test"):
        raise ValueError(f"configs/published.py has no variant {variant!r}; use gan or test")
    if variant == "gan":
        return _of("gan", "published")
    config = _of("classifier", variant)
    config.data.mean = (0.5203, 0.3638, 0.6511)
    config.data.std = (0.2339, 0.2535, 0.1455)
    config.augment.flip = False
    config.augment.rotate = False
    config.augment.stain_jitter = 0.0
    config.loss = ml_collections.ConfigDict({"name": "published_fafl", "alpha0": 0.5, "beta0": 3.0, "m": 1.0})
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 1e-5
    config.optimizer.schedule = "step"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.decay_epochs = 20.0
    config.optimizer.decay_rate = 0.5
    config.train.global_batch_size = 8
    config.train.best_metric = "accuracy"
    return config


def _of(name: str, variant: str) -> ml_collections.ConfigDict:
    """The configuration of another file beside this one."""
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"](variant)
