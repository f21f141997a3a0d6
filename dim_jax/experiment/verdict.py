"""Results of an experiment: scores and case-wise comparisons of out-of-fold predictions, and answers in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.evaluation import confusion_matrices, metrics, statistics
from dim_jax.evaluation.adjustment import Adjustment, fit_adjustment
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.cases import case_names, mean_probabilities, most_frequent, units_of_resampling
from dim_jax.experiment import added_images, composition, stages
from dim_jax.experiment.archive import Archived
from dim_jax.experiment.arms import Arm, Question
from dim_jax.experiment.composition import Chosen
from dim_jax.reporting import wording

SIGNIFICANCE = 0.05
POOLED = ("macro_auroc", "expected_calibration_error", "cross_entropy")


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of one arm on the test images of all evaluated folds.

    Attributes:
      rows: rows of the manifest, int32 (N,), ascending.
      seeds: the S seeds that are finished in every fold.
      logits: float64 (S, N, C), after the arm's post-hoc adjustment, if any.
      chosen: the tuned value of every fold; None if the arm tunes nothing.
      facts: facts of the archived runs.
      made_of: the runs of every fold, by their arms' titles; more than one for an ensemble.
      taus: strength of the adjustment chosen on validation images, for every fold and seed; () if there is none.
    """

    rows: np.ndarray
    seeds: tuple[int, ...]
    logits: np.ndarray
    chosen: tuple[Any, ...]
    facts: tuple[Mapping[str, Any], ...]
    made_of: tuple[tuple[str, ...], ...] = ()
    taus: tuple[float, ...] = ()


def choose(arm: Arm, archives: Mapping[str, Sequence[Archived]], dataset: Dataset, metric: str) -> Arm:
    """Returns the candidate of an arm with the best mean score over the seeds on a fold's validation images.

    Neither labels nor predictions of test images are used. The first of equal candidates is returned.

    Args:
      arm: the arm to tune.
      archives: the archived predictions of every seed, by the candidate's name.
      dataset: the dataset with the split of the fold.
      metric: name in metrics.classification_metrics.
    """
    candidates = arm.candidates()
    if len(candidates) == 1:
        return candidates[0]
    rows, counts = dataset.rows("val"), added_images.training_counts(dataset)

    def validation_score(candidate: Arm) -> float:
        return float(np.mean([
            metrics.classification_metrics(
                dataset.labels[rows], Adjustment(candidate.tau)(archived.logits["val"], counts), dataset.classes
            )[metric]
            for archived in archives[candidate.name]
        ]))  # fmt: skip

    return max(candidates, key=validation_score)


def out_of_fold(
    experiment: stages.Experiment,
    arm: Arm,
    folds: Sequence[int],
    seeds: Sequence[int],
    metric: str,
    chosen_arms: Chosen | None = None,
) -> OutOfFold | None:
    """Pools an arm's predictions on the test images of `folds`; None if no seed is finished in all of them.

    Args:
      experiment: the experiment on one dataset.
      arm: the arm.
      folds, seeds: which of its runs.
      metric: chooses tuned values and adjustments on validation images.
      chosen_arms: result of `composition.chosen_arms`; None to choose now.
    """
    candidates = arm.candidates()
    if chosen_arms is None:
        chosen_arms = composition.chosen_arms(experiment, folds, seeds[0])

    def archives(fold: int, seed: int) -> dict[str, Archived] | None:
        by_name = {
            candidate.name: composition.archived(experiment, candidate, fold, seed, chosen_arms)
            for candidate in candidates
        }
        return by_name if all(by_name.values()) else None

    table = {seed: {fold: archives(fold, seed) for fold in folds} for seed in seeds}
    done = tuple(seed for seed in seeds if all(table[seed].values()))
    if not done:
        return None
    rows, logits, chosen, facts, made_of, taus = [], [], [], [], [], []
    for fold in folds:
        dataset = experiment.dataset(fold)
        of_candidates = {
            candidate.name: [table[seed][fold][candidate.name] for seed in done] for candidate in candidates
        }
        best = choose(arm, of_candidates, dataset, metric)
        counts = added_images.training_counts(dataset)
        adjustments = [Adjustment(best.tau)] * len(done)
        if arm.adjust:
            labels = dataset.labels[dataset.rows("val")]
            adjustments = [
                fit_adjustment(run.logits["val"], labels, counts, metric, experiment.config.offsets)
                for run in of_candidates[best.name]
            ]
            taus += [adjustment.tau for adjustment in adjustments]
        rows.append(dataset.rows("test"))
        runs_and_adjustments = zip(of_candidates[best.name], adjustments, strict=True)
        logits.append(np.stack([adjustment(run.logits["test"], counts) for run, adjustment in runs_and_adjustments]))
        chosen.append(arm.values[candidates.index(best)] if arm.tuned else None)
        facts += [run.facts for run in of_candidates[best.name]]
        runs = composition.runs_of(experiment, best, fold, done[0], chosen_arms) or []
        made_of.append(tuple(run.arm.title for run in runs))
    order = np.argsort(np.concatenate(rows))
    return OutOfFold(
        np.concatenate(rows)[order],
        done,
        np.concatenate(logits, 1)[:, order],
        tuple(chosen),
        tuple(facts),
        tuple(made_of),
        tuple(taus),
    )


def judge(
    experiment: stages.Experiment,
    questions: Mapping[str, Question],
    folds: Sequence[int],
    seeds: Sequence[int],
    near_duplicates: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """Scores every arm, answers every question, and returns all of it JSON-ready.

    Args:
      experiment: the experiment; arms without finished runs are reported as missing.
      questions: the questions by name.
      folds: the folds whose test images are pooled.
      seeds: seeds to include; of each arm those that are finished in all folds.
      near_duplicates: pairs of paths of the manifest.
    """
    config, metric = experiment.config, experiment.config.metric
    dataset = experiment.dataset(folds[0])
    cases = units_of_resampling(dataset, near_duplicates)
    chosen = composition.chosen_arms(experiment, folds, seeds[0])
    pooled = {name: out_of_fold(experiment, arm, folds, seeds, metric, chosen) for name, arm in experiment.arms.items()}
    pooled = {name: arm_predictions for name, arm_predictions in pooled.items() if arm_predictions is not None}
    options = {"num_resamples": config.resamples, "seed": config.seed}
    arms = [
        _arm(experiment.arms[name], arm_predictions, dataset, cases, options)
        for name, arm_predictions in pooled.items()
    ]
    answers = []
    for question in questions.values():
        if question.arm in pooled and question.than in pooled:
            answers.append(_answer(question, pooled, dataset, cases, metric, options))
    for answer in answers:
        answer["is_primary"] = answer["name"] == config.primary
    _correct(answers)
    for answer in answers:
        answer["sentence"] = sentence(answer, questions[answer["name"]].subject, metric)
    rows = next((arm_predictions.rows for arm_predictions in pooled.values()), np.zeros(0, np.int32))
    return {
        "name": experiment.site.name,
        "data": str(experiment.site.data),
        "classes": list(dataset.classes),
        "images": np.bincount(dataset.labels[rows], minlength=len(dataset.classes)).tolist(),
        "num_images": len(rows),
        "num_cases": len(np.unique(cases[rows])) if len(rows) else 0,
        "folds": list(folds),
        "num_folds": config.data.folds,
        "metric": metric,
        "has_primary": bool(config.primary),
        "minority": _minority(experiment, folds[0]),
        "arms": arms,
        "missing": [arm.title for name, arm in experiment.arms.items() if name not in pooled],
        "answers": answers,
        "unanswered": [question.text for question in questions.values()
                       if question.arm not in pooled or question.than not in pooled],
        "selections": {name: stages.facts_of_selection(experiment.site, folds, name) for name in config.generators},
        "not_run": dict(config.not_run),
    }  # fmt: skip


def _minority(experiment: stages.Experiment, fold: int) -> list[str]:
    """Returns the minority classes; none if the classes are about equal, which only generators need to know."""
    try:
        return experiment.minority_classes(fold)
    except ValueError:
        return []


def _confusions(arm_predictions: OutOfFold, dataset: Dataset, cases: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    places = [arm_predictions.seeds.index(seed) for seed in seeds]
    predictions = arm_predictions.logits[places].argmax(-1)
    return confusion_matrices.case_confusions(
        dataset.labels[arm_predictions.rows], predictions, cases[arm_predictions.rows], len(dataset.classes)
    )


def _arm(
    arm: Arm, arm_predictions: OutOfFold, dataset: Dataset, cases: np.ndarray, options: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the entry of one arm in results.json."""
    labels = dataset.labels[arm_predictions.rows]
    confusions = _confusions(arm_predictions, dataset, cases, arm_predictions.seeds)
    of_seeds = [metrics.classification_metrics(labels, logits, dataset.classes) for logits in arm_predictions.logits]
    mean_probabilities = np.mean([probabilities(logits) for logits in arm_predictions.logits], axis=0)
    added = [facts["added"] for facts in arm_predictions.facts]
    requested = [facts.get("requested", max(arm.count, 0)) for facts in arm_predictions.facts]
    return {
        "name": arm.name,
        "title": arm.title,
        "settings": dict(arm.settings),
        "added": arm.added,
        "count": arm.count,
        "share": arm.share,
        "images_added": {"least": min(added), "most": max(added)},
        "images_requested": {"least": min(requested), "most": max(requested)},
        "tuned": arm.tuned,
        "chosen": list(arm_predictions.chosen) if arm.tuned else [],
        "made_of": [list(titles) for titles in arm_predictions.made_of] if arm.parts else [],
        "taus": list(arm_predictions.taus),
        "seeds": list(arm_predictions.seeds),
        **_scores(confusions, options),
        "by_case": _by_case(arm_predictions, dataset, options),
        **{name: _mean([scores_of_seed[name] for scores_of_seed in of_seeds]) for name in POOLED},
        "confusion_matrix": (confusions.sum((0, 1)) / len(arm_predictions.seeds)).tolist(),
        "reliability": metrics.reliability_bins(mean_probabilities, labels),
        "seconds_per_100_training_images": _mean(
            [facts["training_seconds_per_100_images"] for facts in arm_predictions.facts]
        ),
        "seconds_per_test_image": _mean([facts["test_seconds_per_image"] for facts in arm_predictions.facts]),
    }


def _scores(confusions: np.ndarray, options: Mapping[str, int]) -> dict[str, Any]:
    """Returns the scores with intervals, or without them and why."""
    try:
        scores = {name: asdict(estimate) for name, estimate in statistics.estimates(confusions, **options).items()}
    except ValueError as error:
        bare = {name: _bare(values) for name, values in confusion_matrices.scores(confusions.sum(1)).items()}
        return {"scores": bare, "no_interval": str(error)}
    return {"scores": scores, "no_interval": None}


def _by_case(arm_predictions: OutOfFold, dataset: Dataset, options: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns the scores of the answers by case, as cases.score_by_case but over seeds; None if no case is known."""
    names = case_names(dataset, arm_predictions.rows)
    if names is None:
        return None
    labels, num_classes = dataset.labels[arm_predictions.rows], len(dataset.classes)
    numbers = np.unique(names, return_inverse=True)[1]
    truth = most_frequent(labels, numbers, num_classes)
    predicted = [mean_probabilities(probabilities(logits), numbers).argmax(-1) for logits in arm_predictions.logits]
    confusions = confusion_matrices.case_confusions(truth, np.array(predicted), range(len(truth)), num_classes)
    return {"num_cases": len(truth), **_scores(confusions, options)}


def _bare(values: np.ndarray) -> dict[str, Any]:
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"value": float(values.mean()), "low": None, "high": None, "seed_sd": spread, "num_seeds": len(values)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _answer(
    question: Question,
    pooled: Mapping[str, OutOfFold],
    dataset: Dataset,
    cases: np.ndarray,
    metric: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the entry of one question in results.json, its p-value not yet corrected."""
    arm, than = pooled[question.arm], pooled[question.than]
    seeds = [seed for seed in arm.seeds if seed in than.seeds]
    answer: dict[str, Any] = {
        "name": question.name,
        "text": question.text,
        "arm": question.arm,
        "than": question.than,
        "seeds": seeds,
    }
    answer["is_shown"] = False
    if not seeds:
        return answer | {"refused": "the two arms have no seed in common yet"}
    sides = [_confusions(side, dataset, cases, seeds) for side in (arm, than)]
    try:
        differences = statistics.differences(*sides, **options)
        test = statistics.sign_flip_test(*sides, num_flips=options["num_resamples"], seed=options["seed"])[metric]
    except ValueError as error:
        return answer | {"refused": str(error)}
    return answer | {
        "differences": {name: asdict(difference) for name, difference in differences.items()},
        "test": asdict(test),
        "refused": None,
    }


def _correct(answers: Sequence[dict[str, Any]]) -> None:
    """Applies Holm's correction to the p-values of the exploratory questions, and sets `is_shown` of every answer.

    The primary question was fixed in advance and is not corrected.
    """
    tested = [answer for answer in answers if answer["refused"] is None]
    exploratory = [answer for answer in tested if not answer["is_primary"]]
    for answer in tested:
        answer["p_value"] = answer["test"]["p_value"]
    if exploratory:
        corrected = statistics.holm([answer["p_value"] for answer in exploratory])
        for answer, value in zip(exploratory, corrected, strict=True):
            answer["p_value"] = float(value)
    for answer in tested:
        answer["is_shown"] = bool(answer["p_value"] < SIGNIFICANCE)


def sentence(answer: Mapping[str, Any], subject: str, metric: str) -> str:
    """Returns the answer in words: the change of the metric, its interval, and whether it is significant."""
    if answer["refused"]:
        return f"{subject}: no answer ({answer['refused']})."
    effect = answer["differences"][metric]
    numbers = [100 * effect[key] for key in ("value", "low", "high")]
    verdict = "not shown to help"
    if answer["is_shown"]:
        verdict = "shown to help" if effect["value"] > 0 else "shown to harm"
    kind = "" if answer["is_primary"] else "Holm-corrected "
    return (
        f"{subject} changed {wording.label(metric)} by {numbers[0]:+.1f} points, {effect['confidence']:.0%} interval "
        f"{numbers[1]:+.1f} to {numbers[2]:+.1f}, {kind}p = {answer['p_value']:.2g}: {verdict}."
    )
