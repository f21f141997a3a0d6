"""What a configuration may hold, whoever wrote it: a file, a command line, or the config.json of a run directory."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_jax.runs import files

FILE_NAME = "config.json"
MOST_FOLDS = 1000  # of a cross-validation

Config = dict[str, Any]
_ABSENT = object()


@dataclass(frozen=True)
class Rule:
    """What a value must be: of a kind, and a number in a range."""

    kind: type | tuple[type, ...]
    words: str
    least: float = -math.inf
    most: float = math.inf

    def fits(self, value: Any) -> bool:
        """Whether `value` is allowed; true and false are no numbers."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return isinstance(value, self.kind) and self.kind not in (int, (int, float))
        return isinstance(value, self.kind) and self.least <= value <= self.most


def _whole(least: int, most: int) -> Rule:
    return Rule(int, f"a whole number from {least} to {most}", least, most)


def _number(most: float, least: float = 0.0) -> Rule:
    return Rule((int, float), f"a number from {least:g} to {most:g}", least, most)


def _positive(most: float) -> Rule:
    return Rule((int, float), f"a number above 0 and up to {most:g}", math.nextafter(0, 1), most)


TEXT, FLAG = Rule(str, "text"), Rule(bool, "True or False")
LIST = Rule((list, tuple), "a list of numbers")
# Ranges keep typing errors and what no machine can do out; whether values make sense together is for their users.
SHARED = {
    "trainer": TEXT,
    "seed": _whole(0, 2**31 - 1),
    "data.path": TEXT,
    "data.phantom_scale": _positive(100),
    "data.fold": _whole(0, MOST_FOLDS - 1),
    "data.backend": TEXT,
    "data.image_size": _whole(16, 4096),
    "data.resize": TEXT,
    "data.cache_gib": _number(1e6),
    "augment.flip": FLAG,
    "augment.rotate": FLAG,
    "optimizer.name": TEXT,
    "optimizer.learning_rate": _number(1e38),  # one that is too large diverges, and is told so
    "optimizer.learning_rate_scaling": TEXT,
    "optimizer.reference_batch_size": _whole(1, 2**20),
    "train.global_batch_size": _whole(1, 2**20),
    "train.steps_per_dispatch": _whole(1, 10_000),
    "train.keep_checkpoints": _whole(1, 10_000),
    "train.tensorboard": FLAG,
    "train.report": FLAG,
}
RULES = {
    "classifier": SHARED
    | {
        "data.mean": LIST,
        "data.std": LIST,
        "data.generated": TEXT,
        "data.generated_count": _whole(-1, 2**31 - 1),
        "data.generated_weight": _number(1e6),
        "data.class_balanced": FLAG,
        "augment.stain_jitter": _number(1),
        "model.name": TEXT,
        "loss.name": TEXT,
        "optimizer.weight_decay": _number(1e3),
        "optimizer.momentum": _number(1),
        "optimizer.clip_norm": _number(1e9),
        "optimizer.schedule": TEXT,
        "optimizer.warmup_epochs": _number(1e6),
        "optimizer.decay_epochs": _positive(1e6),
        "optimizer.decay_rate": _positive(1),
        "train.num_epochs": _positive(1e6),
        "train.eval_batch_size": _whole(1, 2**20),
        "train.eval_every_epochs": _positive(1e6),
        "train.checkpoint_every_epochs": _positive(1e6),
        "train.best_metric": TEXT,
        "train.initial_weights": TEXT,
    },
    "gan": SHARED
    | {
        "gan.label": TEXT,
        "gan.conditional": FLAG,
        "gan.condition_from": _number(1),
        "gan.condition_until": _number(1),
        "gan.perceptual": TEXT,
        "gan.vgg_weights": TEXT,
        "gan.lpips_weights": TEXT,
        "gan.sum_reconstructions": FLAG,
        "gan.clip_targets": FLAG,
        "gan.small_image": TEXT,
        "gan.ema_decay": _number(1),
        "gan.statistics": TEXT,
        "augment.diff_augment": FLAG,
        "augment.shared": FLAG,
        "augment.adaptive_target": _number(1, -1),
        "augment.images_to_one": _positive(1e12),
        "train.num_train_steps": _whole(1, 10**9),
        "train.sample_every": _whole(1, 10**9),
        "train.checkpoint_every": _whole(1, 10**9),
    },
}
RULES["experiment"] = {
    "trainer": TEXT,
    "seed": SHARED["seed"],
    "data.path": TEXT,
    "data.more": Rule((list, tuple), "a list of paths"),
    "data.phantom_scale": SHARED["data.phantom_scale"],
    "data.classes": TEXT,
    "data.exclude": TEXT,
    "data.group_regex": TEXT,
    "data.folds": _whole(3, MOST_FOLDS),
    "folds": LIST,
    "seeds": LIST,
    "only": TEXT,
    "minority_share": _positive(1),
    "pool.images": _whole(1, 10**6),
    "pool.truncation": _positive(10),
    "pool.judge": TEXT,
    "pool.least_probability": _number(1),
    "pool.distance_quantile": _number(1),
    "pool.distance_slack": _number(1e6),
    "pool.copy_quantile": _number(1),
    "metric": TEXT,
    "resamples": _whole(1, 10**8),
    "primary": TEXT,
    "order": Rule((list, tuple), "a list of names"),
}
# What every user of a finished run relies on; an imported one tells nothing of its training.
USED = ("trainer", "data.path", "data.image_size", "data.resize", "data.fold", "model")
USED_OF = {
    "classifier": ("data.backend", "data.cache_gib", "train.eval_batch_size", "train.global_batch_size"),
    "gan": ("gan.label", "gan.conditional", "gan.statistics"),
}
# What not every network and loss has.
OPTIONAL = {"model.width": _positive(32), "model.dtype": TEXT}


def read(workdir: str | Path, trainer: str | None = None) -> Config:
    """Returns the configuration of a run directory, with what every user of a run relies on checked.

    Args:
      trainer: the one whose run it must be, "classifier" or "gan"; None for either.

    Raises:
      FileNotFoundError: `workdir` holds no run.
      ValueError: it is the run of another trainer, or its config.json is broken.
    """
    path = Path(workdir) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run (no {FILE_NAME}); train one with python -m dim_jax.train, or import one with "
            "python -m dim_jax.interop.convert"
        )
    config = files.read_object(path)
    found = config.get("trainer")
    if not isinstance(found, str) or found not in USED_OF or trainer not in (None, found):
        wanted = {"gan": "a GAN"}.get(trainer or "", "a classifier")
        raise ValueError(f"{workdir} is the run of a {found}, not of {wanted}; give the --workdir of one")
    try:
        check(config, (*USED, *USED_OF[found]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore the file") from None
    return config


def check(config: Mapping[str, Any], needed: tuple[str, ...] | None = None) -> None:
    """Checks the fields of a configuration, each by itself.

    Args:
      needed: dotted names of the fields and groups that must be there; None: all.

    Raises:
      ValueError: a field is missing, of another kind, or out of range.
    """
    rules = RULES[config["trainer"]]
    for name in rules if needed is None else needed:
        if _get(config, name) is _ABSENT:
            raise ValueError(f"config.{name} is missing")
    for name, rule in (rules | OPTIONAL).items():
        value = _get(config, name)
        if value is not _ABSENT and not rule.fits(value):
            raise ValueError(f"config.{name}={value!r} must be {rule.words}")


def check_plain(config: Mapping[str, Any]) -> None:
    """Raises ValueError for what could not be written into a config.json and read again as it was."""
    for name, value in _leaves(config, "config"):
        if not isinstance(value, str | bool | int | float | None):
            raise ValueError(f"{name} is a {type(value).__name__}; a configuration holds text, numbers and lists")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value} is no finite number; give one")


def _get(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, name)
    else:
        yield name, value
