"""The archived predictions in docs/results/ have the fingerprints of the experiments' configurations."""

import json
from pathlib import Path

import numpy as np
import pytest

from dim_jax.experiment import archive, arms, plan
from dim_jax.runs import configuration

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("name", ["ebhi_seg_linear", "ebhi_seg_lrf_cnn"])
def test_every_archive_has_the_fingerprint_of_its_run(name):
    config = configuration.parse_config(configuration.read_saved(RESULTS / name / "config.json"))
    site = plan.Site("ebhi-seg-224", RESULTS / name / "ebhi-seg-224", Path("data"))
    of_arms = arms.read_arms(config)
    runs = plan.runs(of_arms, list(of_arms), range(config.data.folds), config.seeds)
    archived = {path: run for run in runs if (path := run.archive(site)).is_file()}
    assert archived.keys() == set(site.root.rglob("predictions/**/*.npz")) and len(archived) >= 10
    for path, run in archived.items():
        with np.load(path, allow_pickle=False) as arrays:
            expected = json.loads(str(arrays["identity"]))["fingerprint"]
        assert (
            archive.fingerprint(plan.classifier_config(config, run, site, run.arm.count or None), run.arm.count)
            == expected
        ), path
