"""Runs that were made before a field existed go on, and what was kept of them still counts."""

import copy
import runpy
from pathlib import Path

import pytest

from dim_jax.experiment import archive
from dim_jax.runs import added_fields, config_flags, files, workdir

CONFIGS = Path(__file__).parents[2] / "configs"


def today(name, variant=""):
    return files.to_json(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant).to_dict())


def earlier(name, fields):
    """A configuration as it was before these fields."""
    config = copy.deepcopy(today(name))
    for group, field in (field.split(".") for field in fields):
        del config[group][field]
    return config


@pytest.mark.parametrize(("name", "fields"), [("classifier", added_fields.CLASSIFIER), ("gan", added_fields.GAN)])
def test_a_run_of_before_resumes_by_its_own_directory_alone(tmp_path, name, fields):
    files.write_json(tmp_path / "config.json", earlier(name, fields))
    config, *_ = config_flags.parse_flags([f"--workdir={tmp_path}"])
    assert workdir.flatten_config(config).keys() == workdir.flatten_config(today(name)).keys()
    assert {field: workdir.flatten_config(config)[field] for field in fields} == fields
    workdir.check_config(tmp_path, config)


def test_a_run_of_before_resumes_by_its_configuration_unless_a_field_says_otherwise(tmp_path):
    files.write_json(tmp_path / "config.json", earlier("classifier", added_fields.CLASSIFIER))
    config = today("classifier")
    workdir.check_config(tmp_path, config)
    config["optimizer"]["learning_rate_scaling"] = "sqrt"
    with pytest.raises(ValueError, match="learning_rate_scaling: 'none' there, 'sqrt' now"):
        workdir.check_config(tmp_path, config)
    config = today("classifier") | {"new": 1}
    with pytest.raises(ValueError, match="new: 'absent' there, 1 now"):
        workdir.check_config(tmp_path, config)


def test_an_experiment_of_before_is_completed_in_its_parts(tmp_path):
    config = today("experiment", "test")
    old = copy.deepcopy(config)
    for part in ("classifier", "gan"):
        del old[part]["optimizer"]["learning_rate_scaling"], old[part]["optimizer"]["reference_batch_size"]
    files.write_json(tmp_path / "config.json", old)
    workdir.check_config(tmp_path, config)
    assert added_fields.complete(old) == added_fields.complete(config)
    assert "learning_rate_scaling" not in old["gan"]["optimizer"]


def test_predictions_that_were_kept_before_are_still_of_their_run():
    config = today("classifier")
    kept = archive.fingerprint(earlier("classifier", added_fields.AFTER_EXPERIMENTS), 0)
    assert archive.fingerprint(config, 0) == kept
    config["optimizer"]["learning_rate_scaling"] = "linear"
    assert archive.fingerprint(config, 0) != kept


def test_what_is_no_configuration_is_left_as_it_is():
    for odd in (
        {},
        {"trainer": "nothing"},
        {"trainer": "classifier", "loss": 3},
        {"trainer": "experiment", "gan": None},
    ):
        assert added_fields.complete(odd) == odd
