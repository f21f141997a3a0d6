"""The archived predictions in docs/results/ have the fingerprints of the experiments' configurations."""

import json
from pathlib import Path

import numpy as np
import pytest

from dim_jax.experiment import archive, arms, plan, stages
from dim_jax.runs import configuration

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("name, least", [("ebhi_seg_linear", 10), ("ebhi_seg_lrf_cnn", 10), ("ebhi_seg_recipe", 8)])
def test_every_archive_has_the_fingerprint_of_its_run(name, least):
    config = configuration.parse_config(configuration.read_saved(RESULTS / name / "config.json"))
    site = plan.Site("ebhi-seg-224", RESULTS / name / "ebhi-seg-224", Path("data"))
    of_arms = arms.read_arms(config)
    experiment, trained = stages.Experiment(config, site, of_arms), dict.fromkeys(plan.trained_as(of_arms).values())
    runs = [
        plan.PlannedRun(arm, fold, seed)
        for arm in trained
        for fold in range(config.data.folds)
        for seed in config.seeds
    ]
    archived = {path: run for run in runs if (path := run.archive(site)).is_file()}
    assert archived.keys() == set(site.root.rglob("predictions/**/*.npz")) and len(archived) >= least
    for path, run in archived.items():
        with np.load(path, allow_pickle=False) as arrays:
            expected = json.loads(str(arrays["identity"]))["fingerprint"]
        own, start = plan.classifier_config(config, run, site), experiment.fingerprint_of_start(run)
        assert archive.fingerprint(own, run.arm.amount, start) == expected, path
