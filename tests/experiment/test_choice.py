"""The arm that validation predictions choose, and predictions of ensembles and choices of archived runs."""

import dataclasses
from pathlib import Path

import made_archives
import numpy as np
import pytest

from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation.adjustment import FoldValidation, is_allowed
from dim_jax.evaluation.calibration import probabilities
from dim_jax.experiment import arms, composition, plan, stages, verdict
from dim_jax.experiment.choice import choose
from dim_jax.runs import config_flags
from dim_jax.runs.configuration import parse_config

COUNTS = np.array([30, 10, 5])
FOLDS, SEEDS = (0, 1, 2), (0, 1)
CROSS_ENTROPY = ("loss.name", "cross_entropy")
ARMS = {
    "base": arms.Arm("base", "base", (CROSS_ENTROPY,)),
    "mixed": arms.Arm("mixed", "mixed", (CROSS_ENTROPY, ("augment.mixing", "mixup")), seeds=1),
    "head": arms.Arm("head", "new head", (CROSS_ENTROPY, ("train.head_only_share", 1.0)), start="base", seeds=1),
    "chosen": arms.Arm("chosen", "chosen", choices=("base", "mixed", "head")),
    "ensemble": arms.Arm("ensemble", "ensemble", members=("chosen", "base", "head")),
    "ensemble_adjusted": arms.Arm(
        "ensemble_adjusted", "ensemble, adjusted", members=("chosen", "base", "head"), adjust=True
    ),
}
READY = config_flags.load_file("experiment").to_dict()
CONFIG = parse_config(READY | {"resamples": 200, "seeds": SEEDS, "primary": "", "data": READY["data"] | {"folds": 3}})


def validation(part, quality, seed=0, size=40):
    """Predictions for the images of one of several parts, which favour the truth by `quality`."""
    rng = np.random.default_rng([part, seed])
    labels = np.arange(size) % 3
    logits = rng.normal(size=(size, 3))
    logits[np.arange(size), labels] += quality
    return FoldValidation(np.arange(size) + part * size, logits, labels, COUNTS)


def test_the_arm_with_the_better_pooled_predictions_is_chosen_and_the_first_of_equal_ones():
    better, worse = [[validation(part, quality) for part in range(4)] for quality in (3.0, 1.0)]
    nothing_tested = np.array([], int)
    assert choose({"a": worse, "b": better}, nothing_tested, "macro_f1") == "b"
    assert choose({"a": better, "b": worse}, nothing_tested, "mcc") == "a"
    assert choose({"b": better, "a": better}, nothing_tested, "macro_f1") == "b"


def test_a_fold_that_validates_on_the_test_images_has_no_say():
    tested = np.arange(40, 80)  # part 1
    assert [is_allowed(validation(part, 1.0).rows, tested) for part in range(3)] == [True, False, True]
    arms_of = {"a": [validation(0, 1.5), validation(1, 9.0)], "b": [validation(0, 2.5), validation(1, 0.0)]}
    assert choose(arms_of, tested, "macro_f1") == "b"
    assert choose(arms_of, np.arange(200, 240), "macro_f1") == "a"
    with pytest.raises(ValueError, match="every fold validates on images of this test part"):
        choose({name: runs[1:] for name, runs in arms_of.items()}, tested, "macro_f1")
    with pytest.raises(ValueError, match="other validation images"):
        choose({"a": arms_of["a"], "b": arms_of["b"][1:]}, np.array([], int), "macro_f1")


def test_a_shift_of_the_logits_that_adjusting_removes_is_no_advantage():
    plain = [validation(part, 2.0) for part in range(2)]
    shifted = [dataclasses.replace(run, logits=run.logits + np.log(COUNTS)) for run in plain]
    better = [validation(part, 2.2) for part in range(2)]
    better_but_shifted = [dataclasses.replace(run, logits=run.logits + np.log(COUNTS)) for run in better]
    assert choose({"a": plain, "b": better_but_shifted}, np.array([], int), "macro_f1") == "b"
    assert choose({"a": shifted, "b": better}, np.array([], int), "macro_f1") == "b"


def test_the_plan_trains_what_an_arm_starts_from_first_and_a_choice_with_its_first_seed_until_it_is_made():
    runs = plan.runs(ARMS, ["head"], (0,), SEEDS)
    assert [str(run) for run in runs] == ["fold 0, seed 0, base", "fold 0, seed 0, head"]
    runs = plan.runs(ARMS, ["chosen"], (0, 1), SEEDS)
    assert {(run.arm.name, run.seed) for run in runs} == {("base", 0), ("mixed", 0), ("head", 0)}
    more = plan.runs(ARMS, ["chosen"], (0, 1), SEEDS, {("chosen", 0): "mixed", ("chosen", 1): "head"})
    assert [str(run) for run in more[len(runs) :]] == [
        "fold 0, seed 1, mixed", "fold 1, seed 1, base", "fold 1, seed 1, head",
    ]  # fmt: skip
    most = plan.most_runs(ARMS | {"again": dataclasses.replace(ARMS["chosen"], name="again")}, ["again"], (0, 1), SEEDS)
    assert len(most) == len(runs) + 4  # the new heads and what they start from
    everything = plan.runs(ARMS, list(ARMS), (0,), SEEDS)
    assert [str(run) for run in everything if run.seed] == ["fold 0, seed 1, base", "fold 0, seed 1, head"]


def test_a_run_starts_from_the_run_of_the_same_fold_and_seed():
    site = plan.Site("x", Path("runs/x"), Path("DATA"))
    (_, run) = plan.runs(ARMS, ["head"], (2,), (7,))
    config = plan.classifier_config(CONFIG, run, site)
    assert config.train.initial_weights == "runs/x/fold2/runs/base/seed7"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset(
        "phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=16, scale=0.15, split="kfold", folds=3
    )


QUALITY = {
    "base": {"val": 1.0, "test": 1.0},
    "mixed": {"val": 2.5, "test": 2.5},
    "head": {"val": 1.0, "test": 9.0},  # best on the test images, which must not be used
}


@pytest.fixture
def experiment(data, tmp_path):
    """All runs of the first seed, and of the second those that do not depend on the choice."""
    with_archives = stages.Experiment(CONFIG, plan.Site("set", tmp_path / "set", data), ARMS)
    for run in plan.runs(ARMS, list(ARMS), FOLDS, SEEDS):
        made_archives.write(with_archives, run, QUALITY[run.arm.name])
    return with_archives


def test_test_predictions_do_not_take_part_in_the_choice(experiment):
    expected = {("chosen", fold): "mixed" for fold in FOLDS}
    assert composition.chosen_arms(experiment, FOLDS, 0) == expected
    for run in plan.runs(ARMS, list(ARMS), FOLDS, SEEDS):
        made_archives.write(experiment, run, QUALITY[run.arm.name] | {"test": -9.0})
    assert composition.chosen_arms(experiment, FOLDS, 0) == expected
    for fold in FOLDS:  # and validation predictions do
        run = plan.PlannedRun(plan.trained_as(ARMS)["head"], fold, 0)
        made_archives.write(experiment, run, {"val": 9.0, "test": 1.0})
    assert composition.chosen_arms(experiment, FOLDS, 0) == {("chosen", fold): "head" for fold in FOLDS}


def test_a_choice_waits_for_the_folds_that_decide_it_alone(experiment):
    run = plan.PlannedRun(ARMS["mixed"], 1, 0)
    run.archive(experiment.site).unlink()
    # Fold 1 of three validates on what fold 2 is tested on, so it has no say there.
    assert composition.chosen_arms(experiment, FOLDS, 0) == {("chosen", 2): "mixed"}
    assert composition.runs_of(experiment, ARMS["ensemble"], 0, 0, {}) is None
    assert verdict.out_of_fold(experiment, ARMS["chosen"], FOLDS, SEEDS, "macro_f1") is None


def test_an_ensemble_averages_the_probabilities_of_its_distinct_runs(experiment):
    chosen = composition.chosen_arms(experiment, FOLDS, 0)
    trained = plan.trained_as(ARMS)
    members = [experiment.archived(plan.PlannedRun(trained[name], 1, 0)) for name in ("mixed", "base", "head")]
    averaged = composition.archived(experiment, ARMS["ensemble"], 1, 0, chosen)
    for split in ("val", "test"):
        expected = np.mean([probabilities(member.logits[split]) for member in members], axis=0)
        np.testing.assert_allclose(probabilities(averaged.logits[split]), expected, atol=1e-6)
        np.testing.assert_array_equal(averaged.rows[split], members[0].rows[split])
    twice = composition.runs_of(experiment, ARMS["ensemble"], 1, 0, {("chosen", 1): "base"})
    assert [run.arm.name for run in twice] == ["base", "head"]


def test_an_adjusted_ensemble_is_scored_beside_the_plain_one(experiment):
    plain, adjusted = (
        verdict.out_of_fold(experiment, ARMS[name], FOLDS, SEEDS, "macro_f1")
        for name in ("ensemble", "ensemble_adjusted")
    )
    assert plain.seeds == adjusted.seeds == (0,)  # the chosen arm has no second seed yet
    assert plain.made_of == (("mixed", "base", "new head"),) * 3
    assert len(adjusted.taus) == 3 and not plain.taus
    dataset = experiment.dataset(0)
    test = np.isin(plain.rows, dataset.rows("test"))
    counts = np.bincount(dataset.labels[dataset.rows("train")], minlength=len(dataset.classes))
    moved = (plain.logits - adjusted.taus[0] * np.log(counts))[0, test]
    np.testing.assert_array_equal(moved.argmax(-1), adjusted.logits[0, test].argmax(-1))
    results = verdict.judge(experiment, {}, FOLDS, SEEDS)
    entries = {entry["name"]: entry for entry in results["arms"]}
    assert entries["chosen"]["made_of"] == [["mixed"]] * 3 and entries["base"]["made_of"] == []
    assert entries["ensemble_adjusted"]["taus"] == list(adjusted.taus)


def test_predictions_of_a_run_that_started_from_another_base_are_refused(experiment):
    head = plan.PlannedRun(plan.trained_as(ARMS)["head"], 0, 0)
    assert experiment.archived(head) is not None
    elsewhere = stages.Experiment(CONFIG, dataclasses.replace(experiment.site, root=experiment.site.root), ARMS)
    elsewhere.arms = ARMS | {"base": dataclasses.replace(ARMS["base"], settings=(("loss.name", "focal"),))}
    with pytest.raises(ValueError, match="of another configuration"):
        elsewhere.archived(head)


@pytest.mark.parametrize("fields, message", [
    ({"choices": ("base", "other")}, "config.arms.new.choices names 'other', which is not an arm before it"),
    ({"start": "new"}, "config.arms.new.start names 'new', which is not an arm before it"),
    ({"members": ("base", "base_adjusted")}, "names 'base_adjusted', which tunes or adjusts something"),
    ({"choices": ("base", "ensemble")}, "names 'ensemble', which is not trained itself"),
    ({"members": ("base",), "count": 3}, "an arm with members or choices trains nothing"),
    ({"members": ("base",), "choices": ("base",)}, "an arm with members or choices trains nothing"),
    ({"adjust": True, "tau": 1.0}, "leave tau unset"),
])  # fmt: skip
def test_an_arm_made_of_arms_that_cannot_be_is_refused(fields, message):
    config = config_flags.load_file("experiment:recipe").to_dict()
    config["arms"] |= {"new": fields}
    with pytest.raises(ValueError) as caught:
        arms.read_arms(parse_config(config))
    assert message in str(caught.value)
