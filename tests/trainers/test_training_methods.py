"""Training methods end to end on synthetic tissue: what is evaluated, and resuming with the same bits."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation import split_evaluation
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.runs import metrics_file
from dim_jax.training import checkpoints, loop

ROOT = Path(__file__).parents[2]
BASE = [
    f"--config={ROOT / 'configs' / 'classifier.py'}:test", "--config.model.stages=((32,),)",
    "--config.data.backend=resident", "--config.train.global_batch_size=8", "--config.train.eval_batch_size=16",
    "--config.train.report=False", "--config.optimizer.warmup_epochs=0", "--config.train.checkpoint_every_epochs=0.5",
    "--config.train.keep_checkpoints=9", "--config.loss.name=cross_entropy",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


def trained(data, run, *options):
    assert command_line.run(train.main, [*BASE, f"--config.data.path={data}", f"--workdir={run}", *options]) == 0
    return run


def final_state(run):
    return checkpoints.restore(run / loop.CHECKPOINTS).state


def assert_resumes_with_the_same_bits(run):
    """Removes what the second half of the run wrote, trains it again, and compares the states."""
    expected, steps = final_state(run), checkpoints.steps(run / loop.CHECKPOINTS)
    for step in steps[1:]:
        shutil.rmtree(run / loop.CHECKPOINTS / str(step))
    shutil.rmtree(run / loop.BEST)
    assert command_line.run(train.main, [f"--workdir={run}"]) == 0
    jax.tree.map(np.testing.assert_array_equal, final_state(run), expected)


def test_averaged_weights_are_evaluated_and_resumed(data, tmp_path):
    run = trained(data, tmp_path / "run", "--config.train.ema_decay=0.9")
    state, variables = final_state(run), open_classifier_run(run, "newest").variables
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, variables[name], state[f"ema_{name}"])
    assert not np.array_equal(state["params"]["head"]["kernel"], state["ema_params"]["head"]["kernel"])
    in_training = [line for line in metrics_file.read(run) if line["split"] == "val"][-1]
    afterwards = split_evaluation.evaluate_split(run, "val", "newest")
    assert in_training["cross_entropy"] == pytest.approx(afterwards["cross_entropy"], rel=1e-5)
    assert_resumes_with_the_same_bits(run)
