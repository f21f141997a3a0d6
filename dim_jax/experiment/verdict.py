"""What an experiment found: its out-of-fold predictions, scored and compared case by case, and said in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dim_jax.data import splits
from dim_jax.data.dataset import Dataset
from dim_jax.evaluation import metrics, statistics
from dim_jax.evaluation.calibration import probabilities
from dim_jax.experiment import added_images, stages
from dim_jax.experiment.archive import Archived
from dim_jax.experiment.arms import Arm, Question
from dim_jax.experiment.plan import PlannedRun, trained_as
from dim_jax.losses.margins import adjust_logits
from dim_jax.reporting import wording

SIGNIFICANCE = 0.05
POOLED = ("macro_auroc", "expected_calibration_error", "cross_entropy")


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of one arm on the test images of all folds at hand.

    Attributes:
      rows: of the manifest, int32 (N,), ascending.
      seeds: the seeds that every fold has.
      logits: float32 (S, N, C), adjusted where the arm does so.
      chosen: per fold the value of what the arm tunes; None where it tunes nothing.
      facts: of the archives behind it.
    """

    rows: np.ndarray
    seeds: tuple[int, ...]
    logits: np.ndarray
    chosen: tuple[Any, ...]
    facts: tuple[Mapping[str, Any], ...]


def adjusted(logits: np.ndarray, arm: Arm, counts: np.ndarray) -> np.ndarray:
    """Returns logits (..., C) as an arm adjusts them after training, by the training images of each class, (C,)."""
    return np.asarray(adjust_logits(logits, counts, arm.tau)) if arm.tau else logits  # type: ignore[arg-type]


def choose(arm: Arm, found: Mapping[str, Sequence[Archived]], dataset: Dataset, metric: str) -> Arm:
    """Returns the candidate of an arm that does best on a fold's validation images, by the mean over the seeds.

    Nothing of the test images enters: neither labels nor predictions. Of equals the first one is taken.

    Args:
      found: of each candidate, by name, the predictions of every seed.
      dataset: with the fold in use.
      metric: name in metrics.classification_metrics.
    """
    candidates = arm.candidates()
    if len(candidates) == 1:
        return candidates[0]
    rows, counts = dataset.rows("val"), added_images.training_counts(dataset)

    def value(candidate: Arm) -> float:
        return float(np.mean([
            metrics.classification_metrics(
                dataset.labels[rows], adjusted(each.logits["val"], candidate, counts), dataset.classes
            )[metric]
            for each in found[candidate.name]
        ]))  # fmt: skip

    return max(candidates, key=value)


def out_of_fold(
    experiment: stages.Experiment, arm: Arm, folds: Sequence[int], seeds: Sequence[int], metric: str
) -> OutOfFold | None:
    """Gathers an arm's predictions of the test images of `folds`; None until one seed is done in all of them."""
    training = trained_as(experiment.arms)
    candidates = arm.candidates()

    def archives(fold: int, seed: int) -> dict[str, Archived] | None:
        found = {each.name: experiment.archived(PlannedRun(training[each.name], fold, seed)) for each in candidates}
        return found if all(found.values()) else None

    table = {seed: {fold: archives(fold, seed) for fold in folds} for seed in seeds}
    done = tuple(seed for seed in seeds if all(table[seed].values()))
    if not done:
        return None
    rows, logits, chosen, facts = [], [], [], []
    for fold in folds:
        dataset = experiment.dataset(fold)
        of_candidates = {each.name: [table[seed][fold][each.name] for seed in done] for each in candidates}
        best = choose(arm, of_candidates, dataset, metric)
        counts = added_images.training_counts(dataset)
        rows.append(dataset.rows("test"))
        logits.append(adjusted(np.stack([each.logits["test"] for each in of_candidates[best.name]]), best, counts))
        chosen.append(arm.values[candidates.index(best)] if arm.tuned else None)
        facts += [each.facts for each in of_candidates[best.name]]
    order = np.argsort(np.concatenate(rows))
    return OutOfFold(
        np.concatenate(rows)[order], done, np.concatenate(logits, 1)[:, order], tuple(chosen), tuple(facts)
    )


def cases_of(dataset: Dataset, near_duplicates: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the case of every image of the manifest, int32 (N,): its group, joined with those of near-duplicates."""
    place = {row.path: number for number, row in enumerate(dataset.manifest.rows)}
    pairs = [[place[path] for path in pair] for pair in near_duplicates if all(path in place for path in pair)]
    return splits.units_of([row.group for row in dataset.manifest.rows], np.array(pairs, np.int64).reshape(-1, 2))


def judge(
    experiment: stages.Experiment,
    questions: Mapping[str, Question],
    folds: Sequence[int],
    seeds: Sequence[int],
    near_duplicates: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """Scores every arm, answers every question, and returns all of it JSON-ready.

    Args:
      experiment: with the runs that are finished; others are reported as missing.
      questions: what is asked.
      folds: whose test images are pooled.
      seeds: what may be used; of each arm those that are done in all folds.
      near_duplicates: pairs of paths of the manifest.
    """
    config, metric = experiment.config, experiment.config.metric
    dataset = experiment.dataset(folds[0])
    cases = cases_of(dataset, near_duplicates)
    pooled = {name: out_of_fold(experiment, arm, folds, seeds, metric) for name, arm in experiment.arms.items()}
    pooled = {name: found for name, found in pooled.items() if found is not None}
    options = {"num_resamples": config.resamples, "seed": config.seed}
    arms = [_arm(experiment.arms[name], found, dataset, cases, options) for name, found in pooled.items()]
    answers = []
    for question in questions.values():
        if question.arm in pooled and question.than in pooled:
            answers.append(_answer(question, pooled, dataset, cases, metric, options))
    for answer in answers:
        answer["is_primary"] = answer["name"] == config.primary
    _correct(answers)
    for answer in answers:
        answer["sentence"] = sentence(answer, questions[answer["name"]].subject, metric)
    rows = next((found.rows for found in pooled.values()), np.zeros(0, np.int32))
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
        "minority": experiment.minority_classes(folds[0]),
        "arms": arms,
        "missing": [arm.title for name, arm in experiment.arms.items() if name not in pooled],
        "answers": answers,
        "unanswered": [question.text for question in questions.values()
                       if question.arm not in pooled or question.than not in pooled],
        "selections": {name: stages.facts_of_selection(experiment.site, folds, name) for name in config.generators},
        "not_run": dict(config.not_run),
    }  # fmt: skip


def _confusions(found: OutOfFold, dataset: Dataset, cases: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    places = [found.seeds.index(seed) for seed in seeds]
    predictions = found.logits[places].argmax(-1)
    return statistics.case_confusions(dataset.labels[found.rows], predictions, cases[found.rows], len(dataset.classes))


def _arm(arm: Arm, found: OutOfFold, dataset: Dataset, cases: np.ndarray, options: Mapping[str, int]) -> dict[str, Any]:
    """The entry of one arm."""
    labels = dataset.labels[found.rows]
    confusions = _confusions(found, dataset, cases, found.seeds)
    refused = None
    try:
        scores = {name: asdict(each) for name, each in statistics.estimates(confusions, **options).items()}
    except ValueError as error:
        refused = str(error)
        scores = {name: _bare(values) for name, values in statistics.scores(confusions.sum(1)).items()}
    of_seeds = [metrics.classification_metrics(labels, logits, dataset.classes) for logits in found.logits]
    mean_probabilities = np.mean([probabilities(logits) for logits in found.logits], axis=0)
    added = [each["added"] for each in found.facts]
    return {
        "name": arm.name,
        "title": arm.title,
        "settings": dict(arm.settings),
        "added": arm.added,
        "count": arm.count,
        "images_added": {"least": min(added), "most": max(added)},
        "tuned": arm.tuned,
        "chosen": list(found.chosen) if arm.tuned else [],
        "seeds": list(found.seeds),
        "scores": scores,
        "no_interval": refused,
        **{name: _mean([each[name] for each in of_seeds]) for name in POOLED},
        "confusion_matrix": (confusions.sum((0, 1)) / len(found.seeds)).tolist(),
        "reliability": metrics.reliability_bins(mean_probabilities, labels),
        "seconds_per_100_training_images": _mean([each["training_seconds_per_100_images"] for each in found.facts]),
        "seconds_per_test_image": _mean([each["test_seconds_per_image"] for each in found.facts]),
    }


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
    """The entry of one question, its p-value not yet corrected."""
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
    sides = [_confusions(each, dataset, cases, seeds) for each in (arm, than)]
    try:
        differences = statistics.differences(*sides, **options)
        test = statistics.sign_flip_test(*sides, num_flips=options["num_resamples"], seed=options["seed"])[metric]
    except ValueError as error:
        return answer | {"refused": str(error)}
    return answer | {
        "differences": {name: asdict(each) for name, each in differences.items()},
        "test": asdict(test),
        "refused": None,
    }


def _correct(answers: Sequence[dict[str, Any]]) -> None:
    """Corrects the p-values of the exploratory questions for their number, and says which answers show anything.

    The primary one was fixed in advance.
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
    """Returns the answer in words: what changed by how much, with its interval, and whether that shows anything."""
    if answer["refused"]:
        return f"{subject}: no answer ({answer['refused']})."
    found = answer["differences"][metric]
    numbers = [100 * found[key] for key in ("value", "low", "high")]
    verdict = "not shown to help"
    if answer["is_shown"]:
        verdict = "shown to help" if found["value"] > 0 else "shown to harm"
    kind = "" if answer["is_primary"] else "Holm-corrected "
    return (
        f"{subject} changed {wording.label(metric)} by {numbers[0]:+.1f} points, {found['confidence']:.0%} interval "
        f"{numbers[1]:+.1f} to {numbers[2]:+.1f}, {kind}p = {answer['p_value']:.2g}: {verdict}."
    )
