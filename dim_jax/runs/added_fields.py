"""Fields that configurations did not always have: with these values a run does what it did before there were any.

A new field of configs/classifier.py or configs/gan.py is entered here, so that earlier runs go on.
"""

import copy
from collections.abc import Mapping
from typing import Any

# Experiments that kept predictions before did so without these; all others were there and count as what a run is.
AFTER_EXPERIMENTS = {"optimizer.learning_rate_scaling": "none", "optimizer.reference_batch_size": 32}
CLASSIFIER = {
    "data.mean": [],
    "data.std": [],
    "loss.label_smoothing": 0.0,
    "loss.gamma": 2.0,
    "loss.effective_number_beta": 0.9999,
    "loss.max_margin": 0.5,
    "loss.scale": 1.0,
    "loss.reweight_from": 0.8,
    "loss.keep_share": 0.7,
    "loss.metric_weight": 1.0,
    "train.report": True,
    "train.initial_weights": "random",
    **AFTER_EXPERIMENTS,
}
GAN = {
    "gan.condition_from": 0.0,
    "gan.condition_until": 0.0,
    "train.report": True,
    "optimizer.learning_rate_scaling": "none",
    "optimizer.reference_batch_size": 8,
}
_BY_TRAINER = {"classifier": CLASSIFIER, "gan": GAN}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a run, or of an experiment, with the fields it was made too early to have."""
    result = copy.deepcopy(dict(config))
    if result.get("trainer") == "experiment":
        return result | {name: complete(result[name]) for name in _BY_TRAINER if isinstance(result.get(name), dict)}
    for name, value in _BY_TRAINER.get(result.get("trainer"), {}).items():
        group, field = name.split(".")
        if isinstance(result.get(group), dict):
            result[group].setdefault(field, copy.copy(value))
    return result
