"""The schema of configurations: bundled files conform to it, and invalid values are rejected with the field's name."""

import copy
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.data import splits
from dim_jax.losses import LOSSES, deferred
from dim_jax.models import CLASSIFIERS
from dim_jax.runs import config_flags, configuration, fields, files, schema
from dim_jax.training import learning_rates

ROOT = Path(__file__).parents[2]
# A complete configuration of each trainer.
READY = {
    name: configuration.complete(config_flags.load_file(variant).to_dict())
    for name, variant in {
        "classifier": "classifier",
        "gan": "gan:conditional",
        "diffusion": "diffusion:conditional",
        "experiment": "experiment",
    }.items()
}


def changed(trainer, name, value):
    config = copy.deepcopy(READY[trainer])
    *groups, last = name.split(".")
    place = config
    for group in groups:
        place = place[group]
    place[last] = value
    return config


@pytest.mark.parametrize("variant", [
    "classifier", "classifier:test", "classifier:demo", "classifier:small", "classifier:linear", "classifier:finetune",
    "published", "published:test", "gan:published,conditional", "gan:fastgan,conditional,test", "experiment",
    "diffusion:conditional", "diffusion:test",
    "experiment:paper,small", "experiment:linear", "experiment:sensitivity", "experiment:test",
])  # fmt: skip
def test_every_ready_configuration_keeps_to_the_schema_and_comes_back_as_it_was(variant):
    config = configuration.complete(config_flags.load_file(variant).to_dict())
    assert files.to_json(fields.to_dict(configuration.parse_config(config))) == config


@pytest.mark.parametrize("trainer", READY)
def test_the_ready_files_set_every_field_of_the_schema_and_no_other(trainer):
    def names(cls, prefix=""):
        for name, annotation in fields.field_types(cls).items():
            base = fields.plain(annotation)
            if hasattr(base, "__dataclass_fields__") and fields.metadata(annotation, fields.Options) is None:
                yield from names(base, f"{prefix}{name}.")
            elif f"{prefix}{name}" not in ("classes", "classifier.classes", "gan.classes"):
                yield f"{prefix}{name}"

    variant = {"gan": "gan:conditional"}.get(trainer, trainer)
    written = configuration.all_names(config_flags.load_file(variant).to_dict())
    assert set(names(schema.CONFIGS[trainer])) <= set(written)


@pytest.mark.parametrize("value", [None, "1", True, 1.5, -1, 2**40, math.nan, math.inf, [1], {}])
def test_a_value_that_is_not_a_whole_number_in_range_is_refused(value):
    with pytest.raises(ValueError, match=r"config\.train\.global_batch_size(=.* must be a whole number from 1|)"):
        configuration.parse_config(changed("classifier", "train.global_batch_size", value))


@pytest.mark.parametrize(("trainer", "name", "value", "message"), [
    ("classifier", "train.best_metric", "macro_f", "must be one of macro_f1, .*; did you mean macro_f1?"),
    ("classifier", "train.num_epoch", 3.0, "config.train.num_epoch is not a field; did you mean num_epochs?"),
    ("classifier", "trian", {}, "config.trian is not a field; did you mean train?"),
    ("classifier", "train", [1], r"config.train=\[1\] must be a group of fields"),
    ("classifier", "data.backend", "numpy", "config.data.backend='numpy' must be one of tf, resident, features"),
    ("classifier", "data.resize", "stretch", "must be one of squash, crop, pad"),
    ("classifier", "data.image_size", 15, "config.data.image_size=15 must be a whole number from 16 to 4096"),
    ("classifier", "data.backend", "features", "linear takes features, every other model images"),
    ("classifier", "train.initial_weights", "imagenet", r"needs config\.data\.mean="),
    ("classifier", "train.rebalance_from", 1.0, "rebalance_from=1.0 must be a number of at least 0 and below 1"),
    ("classifier", "train.head_only_share", 0.3, "initial_weights=random has none that were learned"),
    ("classifier", "train.initial_weights", "imagnet", "must be one of random, imagenet, or .*; did you mean"),
    ("classifier", "augment.mixing", "mix", "must be one of none, mixup, cutmix, balanced_mixup"),
    ("classifier", "augment.mixing_alpha", 0.0, "mixing_alpha=0.0 must be a number above 0"),
    ("classifier", "loss.gamma", 2.0, "config.loss.gamma is not an option of the loss fafl; it has alpha0, beta0, m"),
    ("classifier", "loss.name", "fafll", "config.loss.name='fafll' is not a loss; choose one of cross_entropy, "),
    ("classifier", "model.stage", 3, "config.model.stage is not an option of .*; did you mean stages?"),
    ("classifier", "model.stages", ["a"], "config.model.stages=.* must be a list"),
    ("classifier", "model.drop_connect", 1.0, "drop_connect=1.0 must be a number of at least 0 and below 1"),
    ("gan", "gan.label", "polyp", "give the class to learn"),
    ("gan", "gan.condition_from", 0.7, "must be shares of the run in this order"),
    ("gan", "augment", {**READY["gan"]["augment"], "cutout": True, "diff_augment": False}, "set both or neither"),
    ("gan", "data.image_size", 65, "config.data.image_size=65 must be one of 64, 128"),
    ("gan", "model.gate", "g", "config.model.gate='g' must be one of gc, sle, none"),
    ("diffusion", "diffusion.label", "polyp", "give the class to learn with --config.diffusion.label=NAME"),
    ("diffusion", "data.image_size", 66, "config.data.image_size=66 must be a multiple of 8"),
    ("experiment", "folds", [7], "config.folds names fold 7; there are folds 0 to 4"),
    ("experiment", "seeds", [1, 1], "must be different integers"),
    ("experiment", "metric", "f1", "config.metric='f1' must be one of macro_f1"),
])  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(trainer, name, value, message):
    with pytest.raises(ValueError, match=message):
        configuration.parse_config(changed(trainer, name, value))


@pytest.mark.parametrize("name", ["ohem_cross_entropy", "published_fafl", "soft_f1", "soft_mcc"])
def test_a_loss_that_cannot_take_two_labels_is_refused_with_those_that_can(name):
    config = changed("classifier", "loss", {"name": name})
    configuration.parse_config(config)
    config["augment"]["mixing"] = "mixup"
    able = ", ".join(
        other for other in LOSSES if other not in ("ohem_cross_entropy", "published_fafl", "soft_f1", "soft_mcc")
    )
    with pytest.raises(ValueError, match=rf"config\.loss\.name={name} counts or ranks .*; choose {able}$"):
        configuration.parse_config(config)


def test_features_are_mixed_but_not_cut():
    config = config_flags.load_file("classifier:linear").to_dict()
    config["augment"]["mixing"] = "balanced_mixup"
    config["loss"] = {"name": "cross_entropy"}
    configuration.parse_config(config)
    config["augment"]["mixing"] = "cutmix"
    with pytest.raises(ValueError, match=r"config\.augment\.mixing=cutmix changes images"):
        configuration.parse_config(config)


@pytest.mark.parametrize(("name", "option", "value"), [
    ("fafl", "alpha0", -1), ("fafl", "beta0", None), ("fafl", "m", True), ("fafl", "m", "4"),
    ("cross_entropy", "label_smoothing", 1), ("class_balanced_focal", "effective_number_beta", 1.1),
    ("ohem_cross_entropy", "keep_share", 0), ("ohem_cross_entropy", "keep_share", 1.5), ("ldam", "scale", 0),
    ("ldam", "reweight_from", 2), ("soft_mcc", "metric_weight", -0.5),
])  # fmt: skip
def test_a_hyper_parameter_out_of_the_range_of_its_signature_is_refused(name, option, value):
    with pytest.raises(ValueError, match=rf"config\.loss\.{option}={value!r} must be a number"):
        configuration.parse_config(changed("classifier", "loss", {"name": name, option: value}))


def test_lists_and_tuples_are_alike_and_an_integer_is_a_number():
    config = changed("classifier", "loss", {"name": "fafl", "m": 4})
    config["model"]["stages"] = ((64, 128), [192])
    parsed = configuration.parse_config(config)
    assert parsed.model.options["stages"] == ((64, 128), (192,)) and parsed.loss.options["m"] == 4


def test_choices_are_those_of_the_code():
    fold = fields.metadata(fields.field_types(schema.DataFields)["fold"], fields.Interval)
    assert fold.le == splits.MAX_FOLDS - 1
    types = fields.field_types(schema.ClassifierOptimizer)
    rebalance = fields.field_types(schema.ClassifierTrain)["rebalance"]
    assert get_args(fields.plain(rebalance)) == ("none", *deferred.METHODS)
    assert get_args(types["schedule"]) == learning_rates.SCHEDULES
    assert get_args(fields.plain(types["learning_rate_scaling"])) == learning_rates.SCALINGS
    assert schema.LOSS.names == tuple(LOSSES) and schema.NETWORK.names == tuple(CLASSIFIERS)


@pytest.mark.parametrize("options", [schema.LOSS, schema.NETWORK], ids=["losses", "models"])
def test_every_default_of_a_signature_is_in_its_range(options):
    for name in options.names:
        for key, option in options.of(name).items():
            fields.convert(option.annotation, option.default, key)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@pytest.mark.parametrize("value", [{"\n": b""}, {"\n": 1}])
@pytest.mark.parametrize("name", ["augment", "arms"])
def test_a_name_with_a_line_break_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"{name}\.\\n") as caught:
        configuration.parse_config(changed("experiment" if name == "arms" else "classifier", name, value))
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(READY)), st.data())
def test_any_value_anywhere_is_allowed_or_refused_by_its_name(trainer, data):
    name = data.draw(st.sampled_from(sorted(configuration.all_names(READY[trainer]))))
    try:
        configuration.parse_config(changed(trainer, name, data.draw(values)))
    except ValueError as error:
        assert name.split(".")[0] in str(error) and "\n" not in str(error)


def test_a_new_field_takes_two_edits(tmp_path):
    """A field written into configs/ and the schema is parsed, documented, and known to runs from before it."""
    for folder in ("dim_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, added in (
        ("configs/classifier.py", "    config.train.num_epochs = 100.0", "    config.train.patience = 0  # epochs\n"),
        (
            "dim_jax/runs/schema.py",
            "    num_epochs: Epochs",
            "    patience: Annotated[int, Interval(ge=0), Added(6, before=7)]\n",
        ),
    ):
        text = (tmp_path / file).read_text()
        assert text.count(before) == 1
        (tmp_path / file).write_text(text.replace(before, added + before))
    files.write_json(tmp_path / "old" / "config.json", READY["classifier"])
    code = (
        "from dim_jax.runs import config_flags, configuration, configuration_page, workdir\n"
        "resumed, *_ = config_flags.parse_flags(['--workdir=old'])\n"
        "new, *_ = config_flags.parse_flags(['--config=classifier', '--workdir=new', '--config.train.patience=3'])\n"
        "print(resumed['train']['patience'], configuration.parse_config(new).train.patience)\n"
        "workdir.check_config('old', resumed)\n"
        "print([line for line in configuration_page.page().splitlines() if 'train.patience' in line][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values, row = done.stdout.splitlines()
    assert values == "7 3"
    assert row == "| `train.patience` | `0` | a whole number of at least 0 | epochs |"
