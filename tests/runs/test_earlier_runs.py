"""Runs made before a field existed can be resumed, and their archived predictions stay valid."""

import copy
import dataclasses

import pytest

from dim_jax.experiment import archive, conductor
from dim_jax.runs import config_flags, configuration, fields, files, schema, workdir

LATER = {
    "classifier": {
        "data.feature_network": "efficientnet_lite0",
        "data.mean": [], "data.std": [], "augment.function": "", "augment.mixing": "none",
        "augment.test_time_views": False, "augment.mixing_alpha": 0.2, "train.report": True,
        "train.initial_weights": "random", "train.ema_decay": 0.0, "train.head_only_share": 0.0,
        "optimizer.backbone_learning_rate_scale": 1.0, "train.rebalance": "none",
        "train.rebalance_from": 0.8, "train.rebalance_tau": 1.0, "optimizer.learning_rate_scaling": "none",
        "optimizer.reference_batch_size": 32, "loss.adaptive": 1.0, "model.drop_connect": 0.5,
        "data.enlarge_generated": False, "data.epoch_of": "all",
        "train.checkpoint_seconds_apart": 0.0,
    },
    "gan": {
        "gan.condition_from": 0.0, "gan.condition_until": 0.0, "train.report": True, "augment.cutout": False,
        "optimizer.learning_rate_scaling": "none", "optimizer.reference_batch_size": 8, "model.latent_size": 256,
        "gan.initial_weights": "", "gan.frozen_side": 0, "train.checkpoint_seconds_apart": 0.0,
    },
}  # fmt: skip


def today(name, variant=""):
    return configuration.complete(config_flags.load_file(f"{name}:{variant}").to_dict())


def earlier(name):
    """A configuration as it was before these fields, when it held the options of all losses."""
    config = today(name)
    for group, field in (field.split(".") for field in LATER[name]):
        del config[group][field]
    if name == "classifier":
        config["loss"] = configuration.EARLIER_LOSS_OPTIONS | {"name": "fafl"}
        config["model"] = {"name": "lrf_cnn", "width": 1.0, "dtype": "float32"}
    return config


def test_every_field_that_came_later_is_tried_here():
    def added(cls, prefix=""):
        for name, annotation in fields.field_types(cls).items():
            if fields.metadata(annotation, fields.Added):
                yield f"{prefix}{name}"
            elif dataclasses.is_dataclass(fields.plain(annotation)):
                yield from added(fields.plain(annotation), f"{name}.")

    for trainer, later in LATER.items():
        assert set(added(schema.CONFIGS[trainer])) <= set(later)


@pytest.mark.parametrize("name", LATER)
def test_an_earlier_run_resumes_by_its_own_directory_alone(tmp_path, name):
    files.write_json(tmp_path / "config.json", earlier(name))
    config, *_ = config_flags.parse_flags([f"--workdir={tmp_path}"])
    flat = workdir.flatten_config(config)
    assert flat.keys() == workdir.flatten_config(today(name)).keys()
    assert {field: flat[field] for field in LATER[name]} == LATER[name]
    workdir.check_config(tmp_path, config)


def test_an_earlier_run_resumes_by_its_configuration_unless_a_field_says_otherwise(tmp_path):
    files.write_json(tmp_path / "config.json", earlier("classifier"))
    config = today("classifier")
    workdir.check_config(tmp_path, config)
    config["optimizer"]["learning_rate_scaling"] = "sqrt"
    with pytest.raises(ValueError, match="learning_rate_scaling: 'none' there, 'sqrt' now"):
        workdir.check_config(tmp_path, config)
    config = today("classifier") | {"new": 1}
    with pytest.raises(ValueError, match="new: 'absent' there, 1 now"):
        workdir.check_config(tmp_path, config)


def test_options_of_other_losses_that_an_earlier_run_held_are_left_out(tmp_path):
    saved = earlier("classifier")
    saved["loss"] |= {"name": "focal", "gamma": 3.0}
    files.write_json(tmp_path / "config.json", saved)
    assert config_flags.parse_flags([f"--workdir={tmp_path}"])[0]["loss"] == {"name": "focal", "gamma": 3.0}
    assert configuration.read_config(tmp_path).loss.options == {"gamma": 3.0}
    saved["loss"]["gama"] = 3.0
    files.write_json(tmp_path / "config.json", saved)
    with pytest.raises(ValueError, match=r"config\.loss\.gama is not an option of the loss focal; .*restore the file"):
        configuration.read_config(tmp_path)


def test_an_earlier_experiment_is_completed_in_its_parts(tmp_path):
    config = today("experiment", "test")
    old = copy.deepcopy(config)
    for part in ("classifier", "gan"):
        del old[part]["optimizer"]["learning_rate_scaling"], old[part]["optimizer"]["reference_batch_size"]
    old["classifier"]["loss"] = configuration.EARLIER_LOSS_OPTIONS | {"name": "fafl"}
    files.write_json(tmp_path / "config.json", old)
    workdir.check_config(tmp_path, config)
    assert configuration.complete(old) == configuration.complete(config)
    assert "learning_rate_scaling" not in old["gan"]["optimizer"]


def test_an_experiment_from_before_diffusion_models_resumes_without_one(tmp_path):
    old = today("experiment", "test")
    del old["diffusion"], old["pool"]["guidance"], old["generators"]["diffusion"]
    files.write_json(tmp_path / "config.json", old)
    config, *_ = config_flags.parse_flags([f"--workdir={tmp_path}"])
    parsed = configuration.parse_config(config)
    assert parsed.diffusion is None and parsed.pool.guidance == 1.0
    workdir.check_config(tmp_path, today("experiment", "test"), conductor.MAY_DIFFER)


def test_later_fields_change_a_fingerprint_where_they_differ_from_earlier_behaviour():
    config = configuration.parse_config(today("classifier"))
    fingerprint = archive.fingerprint(config, 0)
    for name, value in (
        ("optimizer.learning_rate_scaling", "linear"),
        ("augment.function", "os.path:join"),
        ("model.drop_connect", 0.25),
        ("loss.m", 1.0),
    ):
        assert archive.fingerprint(configuration.override(config, [(name, value)]), 0) != fingerprint


def test_what_is_not_a_configuration_is_unchanged():
    for odd in (
        {},
        {"trainer": "nothing"},
        {"trainer": ["gan"]},
        {"trainer": "classifier", "loss": 3},
        {"trainer": "classifier", "loss": {"name": 3}},
        {"trainer": "experiment", "gan": None, "recommended": "", "offsets": "prior"},
    ):
        assert configuration.complete(odd) == odd
