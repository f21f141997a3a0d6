"""What an experiment concludes from predictions: choices on validation, pooled test images, sentences."""

import csv
import dataclasses
from pathlib import Path

import made_archives
import numpy as np
import pytest
from hostile_inputs import EVIL, assert_harmless, renamed

from dim_jax.data import splits
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation import cases, metrics
from dim_jax.evaluation.calibration import probabilities
from dim_jax.experiment import archive, arms, finished, plan, stages, verdict
from dim_jax.reporting import experiment_page, experiment_tables, pages, wording
from dim_jax.reporting.report_files import render_report
from dim_jax.runs import config_flags, files
from dim_jax.runs.configuration import parse_config

FOLDS, SEEDS = (0, 1, 2), (0, 1)
ARMS = {
    "ce": arms.Arm("ce", "CE", (("loss.name", "cross_entropy"),)),
    "tuned": arms.Arm("tuned", "FAFL", (("loss.name", "fafl"),), tuned="set.loss.m", values=(1.0, 4.0)),
    "adjusted": arms.Arm("adjusted", "CE, adjusted", (("loss.name", "cross_entropy"),), tau=1.0),
    "waiting": arms.Arm("waiting", "not trained", (("loss.name", "focal"),)),
}
QUESTIONS = {
    "tuned": arms.Question("tuned", "Does FAFL help?", "FAFL", "tuned", "ce"),
    "adjusted": arms.Question("adjusted", "Does adjusting help?", "Adjusting", "adjusted", "ce"),
    "waiting": arms.Question("waiting", "And this?", "This", "waiting", "ce"),
}
READY = config_flags.load_file("experiment").to_dict()
CONFIG = parse_config(
    READY | {"resamples": 300, "primary": "tuned", "generators": {"gcgan": {}}, "data": READY["data"] | {"folds": 3}}
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset(
        "phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=16, scale=0.15, split="kfold", folds=3
    )


@pytest.fixture
def experiment(data, tmp_path):
    """Two seeds and three folds of CE and of both candidates of FAFL, the second of which is better."""
    with_archives = stages.Experiment(CONFIG, plan.Site("set", tmp_path / "set", data), ARMS)
    quality = {
        "ce": {"val": 1.0, "test": 1.0},
        "tuned_1_0": {"val": 1.0, "test": 9.0},  # best on the test images, which must not be used
        "tuned_4_0": {"val": 3.0, "test": 3.0},
    }
    for run in plan.runs(ARMS, ["ce", "tuned", "adjusted"], FOLDS, SEEDS):
        made_archives.write(with_archives, run, quality[run.arm.name])
    return with_archives


def test_every_test_image_is_scored_once_and_the_better_arm_wins(experiment):
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS)
    assert results["num_images"] == len(experiment.dataset(0))
    entries = {entry["name"]: entry for entry in results["arms"]}
    assert entries["tuned"]["chosen"] == [4.0, 4.0, 4.0]
    assert np.sum(entries["ce"]["confusion_matrix"]) == pytest.approx(results["num_images"])
    by_case = {name: entry["by_case"] for name, entry in entries.items()}
    assert by_case["ce"]["num_cases"] == len({row.group for row in experiment.dataset(0).manifest.rows})
    assert by_case["tuned"]["scores"]["accuracy"]["value"] > by_case["ce"]["scores"]["accuracy"]["value"]
    first, second = results["answers"]
    assert first["is_primary"] and not second["is_primary"]
    assert "FAFL changed Macro F1 by +" in first["sentence"] and first["sentence"].endswith("shown to help.")
    assert results["missing"] == ["not trained"] and results["unanswered"] == ["And this?"]


def test_pooled_scores_are_those_of_the_concatenated_predictions(experiment):
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS)
    pooled = verdict.out_of_fold(experiment, ARMS["ce"], FOLDS, SEEDS, "macro_f1")
    dataset = experiment.dataset(0)
    np.testing.assert_array_equal(pooled.rows, np.arange(len(dataset)))
    expected = [
        metrics.classification_metrics(dataset.labels, logits, dataset.classes)["macro_f1"] for logits in pooled.logits
    ]
    assert results["arms"][0]["scores"]["macro_f1"]["value"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_finished_experiment_is_opened_by_its_folder_and_its_seeds_are_averaged(experiment):
    root, data = experiment.site.root.parent, READY["data"] | {"folds": 3, "path": str(experiment.site.data)}
    assert not finished.is_experiment(root)
    arm = {"title": "CE", "set": {"loss": {"name": "cross_entropy"}}}
    settings = {"arms": {"waiting": arm | {"set": {"loss": {"name": "focal"}}}, "ce": arm}, "order": ("waiting", "ce")}
    settings |= {"questions": {}, "primary": "", "seeds": SEEDS, "generators": {}, "data": data}
    settings["pool"] = READY["pool"] | {"judge": "ce"}
    files.write_json(root / "config.json", READY | settings)
    experiment.site.root.rename(root / experiment.site.data.name)
    experiment.site = dataclasses.replace(experiment.site, root=root / experiment.site.data.name)
    assert finished.is_experiment(root)
    (opened,) = finished.open_experiments(root)
    source, pooled = finished.pool_arm(opened)
    assert "CE" in source and "2 seed(s)" in source
    expected = verdict.out_of_fold(experiment, ARMS["ce"], FOLDS, SEEDS, "macro_f1")
    np.testing.assert_allclose(pooled.probability, np.mean(probabilities(expected.logits), 0), atol=1e-6)
    with pytest.raises(ValueError, match="--arm=dim is not an arm"):
        finished.pool_arm(opened, "dim")
    with pytest.raises(ValueError, match="no seed of waiting is finished"):
        finished.pool_arm(opened, "waiting")


def test_permuting_test_labels_changes_no_decision(experiment, monkeypatch):
    """The candidate chosen in each fold does not depend on the labels of its test images."""
    training = plan.trained_as(ARMS)
    for fold in FOLDS:
        dataset = experiment.dataset(fold)
        archives = {
            candidate.name: [
                experiment.archived(plan.PlannedRun(training[candidate.name], fold, seed)) for seed in SEEDS
            ]
            for candidate in ARMS["tuned"].candidates()
        }
        chosen = verdict.choose(ARMS["tuned"], archives, dataset, "macro_f1")
        assert chosen.values == () and chosen.name == "tuned_4_0"
        test, rng = dataset.rows("test"), np.random.default_rng(fold)
        labels = dataset.labels.copy()
        labels[test] = rng.permutation(labels[test])
        assert (labels != dataset.labels).any()
        rows = [
            dataclasses.replace(row, label=dataset.classes[label])
            for row, label in zip(dataset.manifest.rows, labels, strict=True)
        ]
        permuted = dataclasses.replace(dataset, manifest=dataclasses.replace(dataset.manifest, rows=tuple(rows)))
        assert verdict.choose(ARMS["tuned"], archives, permuted, "macro_f1") == chosen
        # And it does look at what it may look at.
        val = dataset.rows("val")
        labels = dataset.labels.copy()
        labels[val] = (labels[val] + 1) % len(dataset.classes)
        rows = [
            dataclasses.replace(row, label=dataset.classes[label])
            for row, label in zip(dataset.manifest.rows, labels, strict=True)
        ]
        moved = dataclasses.replace(dataset, manifest=dataclasses.replace(dataset.manifest, rows=tuple(rows)))
        assert verdict.choose(ARMS["tuned"], archives, moved, "macro_f1") != chosen


def test_post_hoc_adjustment_shares_the_training_and_removes_the_prior(experiment):
    plain = verdict.out_of_fold(experiment, ARMS["ce"], FOLDS, SEEDS, "macro_f1")
    moved = verdict.out_of_fold(experiment, ARMS["adjusted"], FOLDS, SEEDS, "macro_f1")
    dataset = experiment.dataset(0)
    counts = np.bincount(dataset.labels[dataset.rows("train")], minlength=len(dataset.classes))
    test = np.isin(plain.rows, dataset.rows("test"))
    np.testing.assert_allclose(
        (plain.logits - moved.logits)[:, test],
        np.broadcast_to(np.log(counts / counts.sum()), (2, test.sum(), len(counts))),
        atol=1e-5,
    )


def test_a_seed_counts_only_when_all_folds_have_it(experiment):
    run = plan.PlannedRun(plan.trained_as(ARMS)["ce"], 2, 1)
    run.archive(experiment.site).unlink()
    assert verdict.out_of_fold(experiment, ARMS["ce"], FOLDS, SEEDS, "macro_f1").seeds == (0,)
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS)
    assert next(answer for answer in results["answers"] if answer["name"] == "tuned")["seeds"] == [0]
    assert verdict.out_of_fold(experiment, ARMS["ce"], FOLDS, (1,), "macro_f1") is None


def test_predictions_that_do_not_belong_here_are_refused(experiment, data):
    run = plan.PlannedRun(ARMS["ce"], 0, 0)
    path, config = run.archive(experiment.site), plan.classifier_config(CONFIG, run, experiment.site)
    dataset = experiment.dataset(0)
    assert archive.read(path, config, 0, dataset) is not None
    with pytest.raises(ValueError, match="of another configuration"):
        archive.read(path, dataclasses.replace(config, seed=5), 0, dataset)
    with pytest.raises(ValueError, match="on another split"):
        archive.read(path, config, 0, experiment.dataset(1))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="is broken"):
        archive.read(path, config, 0, dataset)


def test_the_path_of_the_data_does_not_change_a_fingerprint(experiment, tmp_path):
    run = plan.PlannedRun(ARMS["ce"], 0, 0)
    config = plan.classifier_config(CONFIG, run, experiment.site)
    elsewhere = plan.classifier_config(CONFIG, run, plan.Site("set", tmp_path / "other", Path("elsewhere")))
    assert config.data.path != elsewhere.data.path
    assert archive.fingerprint(config, 0) == archive.fingerprint(elsewhere, 0) != archive.fingerprint(config, 30)


def test_near_duplicates_of_different_cases_become_one_case(data):
    dataset = stages.Experiment(CONFIG, plan.Site("set", data.parent, data), ARMS).dataset(0)
    groups = [row.group for row in dataset.manifest.rows]
    other = next(number for number, group in enumerate(groups) if group != groups[0])
    alone = cases.units_of_resampling(dataset, [])
    np.testing.assert_array_equal(alone, splits.units_of(groups, np.zeros((0, 2), np.int64)))
    joined = cases.units_of_resampling(dataset, [[dataset.manifest.rows[0].path, dataset.manifest.rows[other].path]])
    assert joined[0] == joined[other] and len(np.unique(joined)) == len(np.unique(alone)) - 1


@pytest.mark.parametrize("metrics_of_pool", [
    {"refused": "too few images"},
    {"metrics": {
        "kernel_distance": {"value": 0.4, "same_size": None}, "precision": {"value": 0.5}, "recall": {"value": 0.1},
    }},
])  # fmt: skip
def test_a_selection_with_too_few_images_to_measure_is_shown_all_the_same(experiment, tmp_path, metrics_of_pool):
    entry = {
        "fold": 0, "list": "list.json", "class": "normal", "generated": 24, "kept": 1, "reject_rate": 23 / 24,
        "rejected": {"copy_of_training_image": 0, "wrong_class": 23}, "metrics": {"pool": metrics_of_pool},
    }  # fmt: skip
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS) | {"runs": [], "selections": {"gcgan": [entry]}}
    experiment_page.write_results(tmp_path, [results], [])
    page, _, names = experiment_page.render({"dim": tmp_path})
    assert "By case" in page
    earlier = [{name: value for name, value in arm.items() if name != "by_case"} for arm in results["arms"]]
    experiment_page.write_results(tmp_path, [results | {"arms": earlier}], [])
    assert "By case" not in experiment_page.render({"dim": tmp_path})[0]
    assert names == ["set"] and "Images of gcgan" in page and "96%" in page


def test_results_without_the_commands_of_their_runs_are_shown_all_the_same(experiment, tmp_path):
    """Commands name folders of one machine: shared results leave them out, as those under docs/results do."""
    run = {"fold": 0, "seed": 0, "arm": "fafl", "finished": True, "checkpoint_step": 8}
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS) | {"runs": [run]}
    experiment_page.write_results(tmp_path, [results], [])
    assert "1 of 1 are finished" in experiment_page.render({"dim": tmp_path})[0]


def test_experiments_on_several_datasets_are_shown_side_by_side_and_not_pooled(experiment, tmp_path):
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS) | {"runs": []}
    without_answers = results | {"answers": [], "arms": results["arms"][:1]}
    for name, entry in (("ebhi", results), ("oscc", without_answers)):
        (tmp_path / name).mkdir()
        experiment_page.write_results(tmp_path / name, [entry], [])
        files.write_json(tmp_path / name / "config.json", {"trainer": "experiment"})
    page = render_report([tmp_path / "ebhi", tmp_path / "oscc"])
    table = experiment_tables.side_by_side({"ebhi: set": results, "oscc: set": without_answers})
    assert page.count("Side by side") == 1 and "ebhi: set" in page and "oscc: set" in page
    assert "Side by side" not in render_report([tmp_path / "ebhi"])
    by_title = {row["title"]: row["cells"] for row in table["arms"]}
    first, *others = (arm["title"] for arm in results["arms"])
    assert by_title[first][0] == by_title[first][1]
    assert all(by_title[title][1] == (wording.MISSING, "") for title in others)
    asked = [answer for answer in results["answers"] if not answer["refused"]]
    assert len(table["contrasts"]) == len(asked)
    for row, answer in zip(table["contrasts"], asked, strict=True):
        value = 100 * answer["differences"][results["metric"]]["value"]
        assert row["cells"][0][0] == f"{value:+.1f}" and row["cells"][1] == (wording.MISSING, "")


def test_an_experiment_and_a_single_run_do_not_share_a_page(experiment, tmp_path):
    for name, trainer in (("dim", "experiment"), ("run", "classifier")):
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "config.json", {"trainer": trainer})
    with pytest.raises(ValueError, match=r"is an experiment, and others .* give runs of one kind"):
        render_report([tmp_path / "dim", tmp_path / "run"])


def test_hostile_names_do_not_run_in_the_page(experiment, tmp_path):
    results = verdict.judge(experiment, QUESTIONS, FOLDS, SEEDS) | {"runs": [], "selections": {}}
    words = ("normal", "polyp", "FAFL", "adjusted", "help")
    names = dict(zip(words, EVIL, strict=True))
    results = renamed(files.to_json(results), names) | {"metric": results["metric"]}
    experiment_page.write_results(tmp_path, [results], list(EVIL))
    page, written, _ = experiment_page.render({"dim": tmp_path})
    sort = pages.script_file("sort.js")["text"]
    assert page.count(f"<script>{sort}</script>") == 1
    assert_harmless(page.replace(f"<script>{sort}</script>", ""), is_page=True)
    assert "&lt;script&gt;" in page and r"\x1b[2J" in page
    for table in (table for group in written for table in group):
        assert_harmless(table.text)
        assert not any(
            cell.startswith(("=", "+", "@")) for line in csv.reader(table.text.splitlines()) for cell in line
        )


@pytest.mark.parametrize("value, low, p_value, words", [
    (0.012, -0.008, 0.3, "by +1.2 points, 95% interval -0.8 to +3.1, p = 0.3: not shown to help."),
    (0.012, 0.002, 0.01, "by +1.2 points, 95% interval +0.2 to +3.1, p = 0.01: shown to help."),
    (-0.05, -0.09, 0.001, "by -5.0 points, 95% interval -9.0 to +3.1, p = 0.001: shown to harm."),
])  # fmt: skip
def test_a_sentence_states_the_result_and_no_more(value, low, p_value, words):
    estimate = {"value": value, "low": low, "high": 0.031, "confidence": 0.95}
    answer = {"refused": None, "differences": {"macro_f1": estimate}, "p_value": p_value, "is_primary": True}
    answer["is_shown"] = p_value < 0.05
    assert verdict.sentence(answer, "GCGAN images", "macro_f1") == f"GCGAN images changed Macro F1 {words}"
    exploratory = verdict.sentence(answer | {"is_primary": False}, "GCGAN images", "macro_f1")
    assert "Holm-corrected p" in exploratory
