"""Opening the data of an experiment."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dim_jax import prepare
from dim_jax.cli import command_line
from dim_jax.experiment import stages
from dim_jax.runs import config_flags
from dim_jax.runs.configuration import parse_config

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'experiment.py'}:test"


def test_changes_of_the_images_are_noticed_and_moved_ones_are_followed(tmp_path, capsys):
    source = tmp_path / "slides"
    for number in range(24):
        path = source / ("normal", "polyp, low grade")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    classes = '--config.data.classes=normal,"polyp, low grade"'
    config = parse_config(config_flags.parse_flags([CONFIG, f"--workdir={tmp_path / 'run'}", classes])[0])
    root = tmp_path / "run" / "slides"
    site = stages.open_site(str(source), "slides", root, config)
    assert stages.open_site(str(source), "slides", root, config) == site

    relabelled = source / "normal" / "00.png"
    relabelled.rename(source / "polyp, low grade" / "00.png")
    with pytest.raises(ValueError, match=r"1 label was changed .*another --workdir"):
        stages.open_site(str(source), "slides", root, config)
    (source / "polyp, low grade" / "00.png").rename(relabelled)

    moved = shutil.move(source, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"24 of the 24 images .*--data-root"):
        stages.open_site(str(source), "slides", root, config)
    assert command_line.run(prepare.main, [f"--out={site.data}", f"--data-root={moved}"]) == 0
    assert stages.open_site(str(source), "slides", root, config) == site
    with pytest.raises(FileNotFoundError, match="no such folder"):
        stages.open_site(str(source), "slides", tmp_path / "other", config)
