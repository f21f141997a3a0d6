"""docs/configuration.md, made of the schema and the files of configs/.

python -m dim_jax.runs.configuration_page > docs/configuration.md
"""

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dim_jax import losses, models
from dim_jax.models.denoising_unet import DenoisingUNet
from dim_jax.models.gcgan import Generator
from dim_jax.runs import config_flags, fields, files
from dim_jax.runs.schema import CONFIGS, DENOISER, GENERATOR, LOSS, NETWORK, ArmFields

TRAINERS = {"classifier": "Classifier", "gan": "GAN", "diffusion": "Diffusion model", "experiment": "Experiment"}
INTRODUCTION = """# Configuration

A configuration is a Python file that returns a `ConfigDict`. The ready ones are in `configs/` and are also part of the
installed package:

    python -m dim_jax.train --config=configs/classifier.py:small --config.data.path=DATA --workdir=runs/a
    python -m dim_jax.train --config=classifier:small --config.data.path=DATA --workdir=runs/a   # no checkout needed

What follows the colon names a variant; the head of each file lists its variants. A bare name is looked up among the
ready files if there is no file of that name. `--config.FIELD=VALUE` sets a field, and `--dry-run` prints them all. The
run keeps the resolved configuration in `config.json`; `--workdir` alone resumes it.

This page is made of `configs/*.py` and `dim_jax/runs/schema.py` by `python -m dim_jax.runs.configuration_page >
docs/configuration.md`.
"""
LOSSES = """## Losses

`config.loss.name` chooses one. Each has the options of its own signature, set as `--config.loss.OPTION=VALUE`; an
option that the chosen loss lacks is refused. Where another loss is chosen than that of the file, options that both
have keep their value: `m` of `published_fafl` is 4 under `configs/classifier.py`, and 1 under `configs/published.py`.
"""
MODELS = """## Models

`config.model.name` chooses one, and its fields are set as `--config.model.FIELD=VALUE`; a field that the chosen model
lacks is refused. Where another model is chosen than that of the file, fields that both have and that were set keep
their value.
"""
OWN = """## A loss, a model or an augmentation of your own

An import path takes the place of a name: nothing in this package needs to change. The module must be importable where
`train` is started, that is installed, on `PYTHONPATH`, or in the current folder.

    python -m dim_jax.train --config=classifier --config.data.path=DATA --workdir=runs/mine \\
        --config.loss.name=mypackage.losses:mine --config.loss.strength=2 \\
        --config.model.name=mypackage.nets:Net --config.augment.function=mypackage.noise:blur

- A **loss** is a function of the signature in `dim_jax/losses/signature.py`: `mine(logits, labels, mask, class_counts,
  cross_replica_sum, *, strength=1.0)` returns one loss per example, (N,) float32. Keywords are its options, each with a
  default; `typing.Annotated[float, annotated_types.Interval(ge=0)]` gives one a range. Options are traced. A keyword
  `progress` is the share of the run that is done, and no option. A loss that counts or ranks the examples of a batch
  annotates `labels` as `BatchLabels` of that file; it is refused where examples are mixed.
- A **model** is a class of `flax.linen` with a field `num_classes` whose call
  `(images, train=False, example_keys=None)` returns `(logits, features)`; `example_keys` holds a random key for each
  image in training. Its other fields have defaults and are its options. If it has them, `axis_name` is the device axis
  for batch statistics and `dtype` the dtype of the computation. What `train.head_only_share` trains alone is its module
  named `head`.
- An **augmentation** is a function `blur(key, image)` of a random key and one image, (S, S, 3) float32 in [0, 1], that
  returns such an image. It runs under `jit` and `vmap`, in training alone, after flips, rotations and stain jitter.

`evaluate`, `predict` and a resumed run import what `config.json` names in the same way, as Python finds it, so the
module must be there. Code that is in the run directory itself is refused: a run that somebody else made brings no code
along.
"""


def page() -> str:
    """Returns the page in Markdown."""
    parts = [INTRODUCTION]
    for trainer, title in TRAINERS.items():
        parts.append(f"## {title}: `configs/{trainer}.py`\n\n{_table(_trainer_rows(trainer))}")
        if trainer == "experiment":
            parts.append(
                "`config.classifier`, `config.gan` and `config.diffusion` hold the fields above. An arm, "
                "`config.arms.NAME`, has these:\n\n" + _table(_arm_rows())
            )
    parts.append(LOSSES + "\n" + _table(_option_rows(LOSS), "loss"))
    parts.append(MODELS + "\n" + _table(_option_rows(NETWORK), "model"))
    for title, owner, file, options, network in (
        ("Generator", "a GAN", "gan", GENERATOR, Generator),
        ("Denoising network", "a diffusion model", "diffusion", DENOISER, DenoisingUNet),
    ):
        rows = [(f"`{key}`", *row) for key, *row in _options("", options, network)]
        parts.append(
            f"## {title}\n\nFields of `config.model` of {owner}; what `configs/{file}.py` sets comes before these "
            f"defaults.\n\n{_table(rows)}"
        )
    return "\n".join([*parts, OWN])


Row = tuple[str, ...]


def _table(rows: list[Row], first: str = "field") -> str:
    is_option = first != "field"
    head = [*([first, "option"] if is_option else [first]), "default", "allowed", "what it does"]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def _trainer_rows(trainer: str) -> list[Row]:
    values = config_flags.load_file(trainer).to_dict()
    comments = _comments((config_flags.packaged_configs() / f"{trainer}.py").read_text(encoding="utf-8"))
    return [
        (f"`{name}`", _value(value), _words(annotation) or "a name below", comments.get(name, ""))
        for name, annotation, value in _leaves(CONFIGS[trainer], values)
        if name != "trainer"
    ]


def _leaves(cls: type, values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, type, default) of the fields that a file sets."""
    for name, annotation in fields.field_types(cls).items():
        base, options = fields.plain(annotation), fields.metadata(annotation, fields.Options)
        if name not in values or base in CONFIGS.values():
            continue
        if options is not None:
            for key, value in values[name].items():
                known = options.of(values[name].get("name", ""))
                yield f"{prefix}{name}.{key}", known[key].annotation if key in known else None, value
        elif dataclasses.is_dataclass(base):
            yield from _leaves(base, values[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation, values[name]


def _comments(text: str) -> dict[str, str]:
    """Returns the comment behind each `config.FIELD = VALUE` of a file, of the first line that sets it."""
    comments: dict[str, str] = {}
    for name, comment in re.findall(r"^    config\.([\w.]+) = [^\n]*?(?:  # ([^\n]*))?$", text, re.MULTILINE):
        comments.setdefault(name, comment)
    return {name: comment.replace("|", "\\|") for name, comment in comments.items()}


def _arm_rows() -> list[Row]:
    what = {
        "title": "what tables call it",
        "set": "fields of the classifier's configuration that it sets",
        "added": "source of the images that it adds: a generator, a generator with _unselected, or copies",
        "count": "how many, over all minority classes; -1: as many as make all classes equal",
        "share": "instead of a count: how many, as a share of the real training images of each minority class",
        "tau": "strength of post-hoc logit adjustment",
        "tune": "{field, values}: one field whose value is chosen by the validation images of every fold",
        "start": "the arm whose run of the same fold and seed gives the initial weights",
        "members": "of an ensemble: the arms whose probabilities are averaged",
        "choices": "the arms of which the validation images of other folds choose one for every fold",
        "adjust": "choose the strength of post-hoc adjustment by the validation images of every fold and seed",
        "seeds": "how many of the experiment's seeds it is trained with; 0: all",
    }
    rows = []
    for field in dataclasses.fields(ArmFields):
        default = field.default if field.default is not dataclasses.MISSING else None
        annotation = fields.field_types(ArmFields)[field.name]
        rows.append((f"`{field.name}`", _value(default), _words(annotation), what[field.name]))
    return rows


def _option_rows(options: fields.Options) -> list[Row]:
    rows = []
    for name in options.names:
        make = losses.get_loss(name) if options is LOSS else models.get_classifier(name)
        own = list(_options(name, options, make)) or [("none", "", "", "")]
        for number, (key, *row) in enumerate(own):
            rows.append((f"`{name}`" if number == 0 else "", f"`{key}`" if row[0] else key, *row))
    return rows


def _options(name: str, options: fields.Options, make: Callable) -> Iterator[Row]:
    described = _described(inspect.getdoc(make.func if isinstance(make, functools.partial) else make) or "")
    for key, option in options.of(name).items():
        yield key, _value(option.default), _words(option.annotation), described.get(key, "")


def _described(docstring: str) -> dict[str, str]:
    """Returns what a docstring says of each argument or attribute."""
    descriptions: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    for names, text in re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", section[1] if section else "", re.MULTILINE):
        descriptions |= {name: " ".join(text.split()).rstrip(".").replace("|", "\\|") for name in names.split(", ")}
    return descriptions


def _value(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return ""
    text = repr(fields.as_tuple(files.to_json(value)))
    return f"`{text}`" if len(text) < 200 else "see the file"


def _words(annotation: Any) -> str:
    return "" if annotation is None else fields.allowed(annotation)


if __name__ == "__main__":
    sys.stdout.write(page())
