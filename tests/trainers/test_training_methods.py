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


# Every method that changes a step, in one run. Adam would turn rounding noise into visible steps.
METHODS = [
    "--config.optimizer.name=sgd", "--config.train.ema_decay=0.9", "--config.augment.mixing=balanced_mixup",
    "--config.train.rebalance=sampling", "--config.train.rebalance_from=0.6",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("runs") / "resident", *METHODS)


def test_both_backends_train_alike(finished, data, tmp_path):
    streamed = trained(data, tmp_path / "tf", *METHODS, "--config.data.backend=tf")
    for ours, theirs in zip(*(jax.tree.leaves(final_state(run)) for run in (finished, streamed)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=1e-3)  # pixels differ by up to one level


def test_averaged_weights_are_evaluated(finished):
    state, variables = final_state(finished), open_classifier_run(finished, "newest").variables
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, variables[name], state[f"ema_{name}"])
    assert not np.array_equal(state["params"]["head"]["kernel"], state["ema_params"]["head"]["kernel"])
    in_training = [line for line in metrics_file.read(finished) if line["split"] == "val"][-1]
    afterwards = split_evaluation.evaluate_split(finished, "val", "newest")
    assert in_training["cross_entropy"] == pytest.approx(afterwards["cross_entropy"], rel=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first, *later = checkpoints.steps(run / loop.CHECKPOINTS)
    for step in later:
        shutil.rmtree(run / loop.CHECKPOINTS / str(step))
    shutil.rmtree(run / loop.BEST)
    assert command_line.run(train.main, [f"--workdir={run}"]) == 0
    assert first < final_state(run)["step"] == final_state(finished)["step"]
    jax.tree.map(np.testing.assert_array_equal, final_state(run), final_state(finished))
