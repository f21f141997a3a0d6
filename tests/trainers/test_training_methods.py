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
from dim_jax.runs import files, metrics_file
from dim_jax.training import checkpoints, loop

ROOT = Path(__file__).parents[2]
BASE = [
    f"--config={ROOT / 'configs' / 'classifier.py'}:test", "--config.model.stages=((32,),)",
    "--config.data.backend=resident", "--config.train.global_batch_size=8", "--config.train.eval_batch_size=16",
    "--config.train.report=False", "--config.optimizer.warmup_epochs=0", "--config.train.checkpoint_every_epochs=0.5",
    "--config.train.keep_checkpoints=9", "--config.loss.name=cross_entropy",
]  # fmt: skip


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


def cut(run, target, step):
    """A copy of a run as it was at a step."""
    shutil.copytree(run, target)
    for later in checkpoints.steps(target / loop.CHECKPOINTS):
        if later > step:
            shutil.rmtree(target / loop.CHECKPOINTS / str(later))
    shutil.rmtree(target / loop.BEST)
    return target


def assert_resumes_with_the_same_bits(run, whole):
    before = final_state(run)["step"]
    assert command_line.run(train.main, [f"--workdir={run}"]) == 0
    assert before < final_state(run)["step"] == final_state(whole)["step"]
    jax.tree.map(np.testing.assert_array_equal, final_state(run), final_state(whole))


def test_a_resumed_run_ends_with_the_same_bits(finished, tmp_path):
    run = cut(finished, tmp_path / "run", checkpoints.steps(finished / loop.CHECKPOINTS)[0])
    assert_resumes_with_the_same_bits(run, finished)


def test_the_head_of_an_earlier_run_is_trained_alone_and_then_all_layers(finished, data, tmp_path):
    """Up to the step between the phases all else keeps its bits; resumed from there, also without the earlier run."""
    base = tmp_path / "base"
    shutil.copytree(finished, base)
    earlier = open_classifier_run(base).variables
    options = [
        f"--config.train.initial_weights={base}", "--config.train.head_only_share=0.5",
        "--config.optimizer.backbone_learning_rate_scale=0.1", "--config.optimizer.weight_decay=0.1",
        "--config.train.checkpoint_every_epochs=0.01", "--config.train.keep_checkpoints=99",
    ]  # fmt: skip
    whole = trained(data, tmp_path / "whole", *options)
    assert str(base) in files.read_json(whole / "environment.json")["initial weights"]
    last = checkpoints.steps(whole / loop.CHECKPOINTS)[-1]
    run = cut(whole, tmp_path / "run", last // 2 + last // 2 % 2)
    between, after = final_state(run), final_state(whole)
    assert last // 2 <= between["step"] < last
    jax.tree.map(np.testing.assert_array_equal, between["batch_stats"], earlier["batch_stats"])
    for name, module in earlier["params"].items():
        for state, changes in ((between, name == "head"), (after, True)):
            same = jax.tree.map(np.array_equal, state["params"][name], module)
            assert all(jax.tree.leaves(same)) != changes, name
    # Each phase has a cosine of its own: the rate falls, and begins again at its peak.
    rates = {line["step"]: line["learning_rate"] for line in metrics_file.read(whole) if line["split"] == "train"}
    assert rates[int(between["step"])] < 0.5 * rates[int(between["step"]) + 2]
    shutil.rmtree(base)
    assert_resumes_with_the_same_bits(run, whole)


@pytest.mark.parametrize(("options", "message"), [
    (["--config.train.initial_weights={tmp}/none"], "none holds no run"),
    (["--config.train.initial_weights={run}", "--config.model.stages=((16,),)"], "is of another model"),
    (["--config.train.initial_weights={run}", "--config.data.path={other}"], "was trained on another split"),
    (["--config.train.initial_weights={run}", "--config.data.mean=(.1,.1,.1)", "--config.data.std=(.1,.1,.1)"],
     "normalises images by other statistics; set config.data.mean=("),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(options, message, finished, data, tmp_path, capsys):
    other = tmp_path / "other"
    if "{other}" in options[-1]:
        prepare_dataset("phantom", other, image_size=32, scale=0.03, seed=1)
    given = [option.format(run=finished, tmp=tmp_path, other=other) for option in options]
    run = tmp_path / "run"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={data}", f"--workdir={run}", *given]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not run.exists()
