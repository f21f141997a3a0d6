"""The demo: what a newcomer sees after some minutes, and its one bar."""

import re
from pathlib import Path

import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import plan
from dim_jax.runs import config_flags, files
from dim_jax.runs.configuration import parse_config
from dim_jax.zoo import catalog

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'experiment.py'}:demo"


def test_its_generator_is_trained_already_and_no_run_of_it_is_planned(tmp_path):
    config = parse_config(config_flags.parse_flags([CONFIG, f"--workdir={tmp_path}"])[0])
    site = plan.Site("phantom", tmp_path, tmp_path / "data")
    (name,) = config.generators
    assert plan.generator_configs(config, name, 0, site, ["normal"]) == {}
    assert catalog.models()[plan.trained_run(config, name).removeprefix(catalog.PREFIX)]["classes"] == ["normal"]
    assert {arm.generator for arm in arms_of.read_arms(config).values() if arm.added} == {name}


def test_a_generator_that_lacks_a_minority_class_is_refused_before_anything_is_trained(tmp_path, capsys):
    options = ["--config.data.phantom_scale=0.05", "--config.minority_share=0.9", f"--workdir={tmp_path / 'demo'}"]
    assert command_line.run(train.main, [CONFIG, *options]) == 2
    assert "zoo:phantom-normal generates normal, not the minority class" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "phantom").exists()


@pytest.mark.slow
def test_the_best_arm_recalls_every_class_and_the_page_shows_pictures(tmp_path, capsys):
    workdir = tmp_path / "demo"
    assert command_line.run(train.main, [CONFIG, f"--workdir={workdir}", "--brief"]) == 0
    printed = capsys.readouterr()
    shares = [int(share) for share in re.findall(r"experiment: (\d+)%", printed.err)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 100
    assert len(printed.out.splitlines()) < 20 and "Recall of CE, logits adjusted" in printed.out
    site = files.read_json(workdir / "results.json")["sites"][0]
    scores = next(arm for arm in site["arms"] if arm["name"] == "adjusted")["scores"]
    assert all(scores[f"recall_{label}"]["value"] > 0.5 for label in range(len(site["classes"])))
    assert scores["g_mean"]["value"] > 0.6
    assert site["selections"]["gcgan"][0]["kept"] > 0
    page = (workdir / "report.html").read_text()
    for part in ("Grad-CAM over", "Selected images of fold", "closest pairs of generated and real images"):
        assert part in page
    assert "selected" in (workdir / "run.log").read_text()  # what the stages print is in the log
