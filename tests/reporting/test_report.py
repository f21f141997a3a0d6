"""The report page of classifiers: contents, missing and damaged files, self-containedness, and escaping of names."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from report_runs import CLASSES, COUNTS, HOSTILE, Page, links, make_data, make_run

from dim_jax import report
from dim_jax.cli import command_line
from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.reporting import figures, report_files, thumbnails
from dim_jax.runs import files


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A tested run, a tested run with another loss and seed, and one that is not tested."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / "a"),
        make_run(folder / "b", loss="cross_entropy", seed=1),
        make_run(folder / "c", evaluated=()),
    ]


@pytest.fixture(scope="module")
def one(runs: list[Path]) -> str:
    return report_files.render_report(runs[:1])


@pytest.fixture(scope="module")
def three(runs: list[Path]) -> str:
    return report_files.render_report(runs)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile")
    runs = [
        make_run(folder / "<img src=x onerror=y> $z^{", HOSTILE),
        make_run(folder / "$q_{\x07\u202e", HOSTILE, seed=1),
    ]
    files.write_json(runs[0] / "data_report.json", {"warnings": ["<b onclick=x>\x1b[2J"]})
    config = files.read_json(runs[0] / "config.json")
    files.write_json(runs[0] / "config.json", config | {"</style><script>": "</script>\x00"})
    return report_files.render_report(runs)


def test_the_page_is_self_contained(one: str, three: str) -> None:
    for html in (one, three):
        page = Page(html)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video"}
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert all(value.startswith(("data:image/", "data:text/csv", "#")) for value in page.attributes(name)), name
        assert not re.search(r"@import|url\((?!#)|https?://", html)


def test_ids_are_unique_and_every_inner_reference_has_a_target(three: str) -> None:
    page = Page(three)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    referred = [value[1:] for value in page.attributes("href") if value.startswith("#")]
    referred += re.findall(r"url\(#([^)]+)\)", three)
    assert referred and set(referred) <= set(ids)


def test_page_is_accessible(three: str) -> None:
    page = Page(three)
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert drawings
    assert all(item.get("aria-label") if item.get("role") == "img" else item["aria-hidden"] for item in drawings)


def test_hostile_names_come_out_literally(hostile: str) -> None:
    page = Page(hostile)
    assert not {"script", "b\x00"} & {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    for name in (
        *map(command_line.printable, HOSTILE),
        "<img src=x onerror=y> $z^{",
        r"$q_{\x07\u202e",
        r"<b onclick=x>\x1b[2J",
    ):
        assert name in page.text
    assert page.table("Images per class and split")[1][0] == HOSTILE[0]


def test_control_characters_never_reach_the_page(hostile: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", hostile)
    assert r"\x00\x1b\u202e" in hostile


def test_labels_of_figures_are_text_and_not_formulas() -> None:
    label = "".join(HOSTILE) + " $\\frac{1}{2}$"
    line = figures.Line(np.arange(3.0), np.arange(3.0))
    svg = figures.curves([line], label, "f-", f'alt "{label}', {1.0: 0})
    root = ElementTree.fromstring(svg)
    assert command_line.printable(label) in [element.text for element in root.iter("text")]
    assert root.get("aria-label") == command_line.printable(f'alt "{label}')
    assert not list(root.iter("script"))


def test_figures_take_their_colours_from_the_page(one: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", one, re.S)
    assert drawings
    assert not any(re.search(r"#[0-9a-f]{6}", drawing) for drawing in drawings)
    used = set(re.findall(r"var\((--[\w-]+)\)", one))
    assert all(f"{name}:" in one for name in used)


def test_metrics_shown_equal_those_in_the_files(runs: list[Path], one: str) -> None:
    page = Page(one)
    rows = {row[0]: row[1:] for row in page.table("Summary metrics")}
    assert rows["Metric"] == ["test", "validation"]
    for at, split in enumerate(("test", "val")):
        metrics = files.read_json(runs[0] / "eval" / split / "metrics.json")
        for key, name in (("macro_f1", "Macro F1"), ("mcc", "MCC"), ("accuracy", "Accuracy"), ("loss", "Loss")):
            assert rows[name][at] == f"{metrics[key]:.3f}"
        assert rows["G-mean"][at] == "–"
        split_name = "validation" if split == "val" else split
        per_class = page.table(f"Results per class, {split_name} split")[1:]
        assert [row[0] for row in per_class] == list(CLASSES)
        for shown, row in zip(per_class, metrics["per_class"], strict=True):
            numbers = [row[key] for key in ("precision", "recall", "f1", "auroc")]
            assert shown[2:4] == [str(row["support"]), str(row["predicted"])]
            assert shown[4:] == ["–" if value is None else f"{value:.3f}" for value in numbers]
        confusion = page.table(f"Confusion matrix, {split_name} split")[1:-1]
        for shown, counts in zip(confusion, metrics["confusion_matrix"], strict=True):
            expected = [f"{count}{100 * count / sum(counts):.0f} %" if count else "0" for count in counts]
            assert shown[1:] == [*expected, str(sum(counts))]


def test_data_are_counted_per_class_and_split(one: str) -> None:
    page = Page(one)
    rows = {row[0]: row[1:5] for row in page.table("Images per class and split")}
    assert rows["Class"] == ["training", "validation", "test", "all"]
    assert [int(rows[name][3]) for name in CLASSES] == list(COUNTS)
    assert all(sum(map(int, rows[name][:3])) == int(rows[name][3]) for name in CLASSES)
    facts = dict(page.table("About the data"))
    assert facts["Split"] == "group, seed 7"
    assert facts["Groups (patients or cases)"] == "60"
    assert facts["Normalisation, mean (RGB)"] == "0.650, 0.480, 0.700"
    assert "2 near-duplicate pairs." in page.text


def test_generated_images_are_counted_by_class(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", config | {"data": config["data"] | {"generated": "pool/selected.json"}})
    entries = [{"path": f"{at}.png", "label": name} for at, name in enumerate(["polyp", "normal", "polyp"])]
    files.write_json(folder / "generated.json", {"images": entries})
    facts = dict(Page(report_files.render_report([folder])).table("About the data"))
    assert facts["Generated training images"] == "3: 1 normal, 2 polyp"
    assert facts["Generated images listed in"] == "pool/selected.json"


def test_the_header_has_the_facts_of_the_run_and_the_disclaimer(one: str) -> None:
    page = Page(one)
    for text in (
        "classifier · lrf_cnn · fafl corrected",
        "2025-01-02 03:04",
        "Research software, not a medical device",
    ):
        assert text in page.text
    assert "checkpoint of step 80" in page.text and "Best checkpoint: step 80 (epoch 4)" in page.text


def test_examples_are_the_most_confident_of_each_class(one: str) -> None:
    label = np.array([0, 0, 0, 1])
    logits = np.array([[1.0, 0], [5, 0], [0, 9], [0, 1]])
    chosen = thumbnails.choose(np.array([10, 11, 12, 13]), label, logits, most=2)
    assert [example.index for example in chosen[0]["right"]] == [11, 10]
    assert [(example.index, example.predicted) for example in chosen[0]["wrong"]] == [(12, 1)]
    assert chosen[0]["right"][0].probability == pytest.approx(1 / (1 + np.exp(-5)))
    assert chosen[1]["wrong"] == []
    assert "data:image/jpeg;base64," in one


def test_missing_files_are_reported_in_sentences(tmp_path: Path) -> None:
    run = tmp_path / "run"
    files.write_json(run / "config.json", {"trainer": "classifier"})
    text = Page(report_files.render_report([run])).text
    for sentence in (
        "No split has been evaluated yet",
        "The test split has not been evaluated yet",
        "Nothing has been logged yet",
        "There is no manifest.json",
        "There is no environment.json",
    ):
        assert sentence in text


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("val",))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:4]) + "rubbish\n" + lines[4][:20])
    text = Page(report_files.render_report([run])).text
    assert "Training is not finished: epoch 1.5 of 5" in text
    assert "The test split has not been evaluated yet" in text
    assert "only the test split gives an unbiased estimate" in text
    assert "1 line(s) of metrics.jsonl cannot be read" in text


def test_missing_images_and_predictions_are_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "images").rename(tmp_path / "moved")
    text = Page(report_files.render_report([run])).text
    assert re.search(r"(\d+) of \1 image files could not be read; they were in", text)
    assert "image file not found: class2/" in text
    (run / "eval" / "test" / "predictions.npz").write_bytes(b"PK\x03\x04 no archive")
    assert "eval/test/predictions.npz cannot be read" in Page(report_files.render_report([run])).text
    (run / "eval" / "test" / "predictions.npz").unlink()
    assert "There is no eval/test/predictions.npz" in Page(report_files.render_report([run])).text


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("config.json", "{"),
        ("manifest.json", "[]"),
        ("split.json", "{}"),
        ("generated.json", '{"images": [3]}'),
        ("eval/test/metrics.json", "null"),
    ],
)
def test_damaged_files_are_reported_and_the_rest_is_shown(tmp_path: Path, name: str, replacement: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(replacement)
    page = Page(report_files.render_report([run]))
    assert Path(name).name in page.text
    assert page.table("Summary metrics")


def test_several_runs_are_compared(runs: list[Path], three: str) -> None:
    page = Page(three)
    head, *rows = page.table("Summary metrics")
    assert [row[0] for row in rows] == ["a", "b", "c"]
    values = [files.read_json(run / "eval" / "test" / "metrics.json")["macro_f1"] for run in runs[:2]]
    best = int(np.argmax(values))
    column = head.index("Macro F1")
    assert rows[best][column] == f"{values[best]:.3f}(best)"
    assert rows[1 - best][column] == f"{values[1 - best]:.3f}"
    assert rows[2][column] == "–"
    # Equal values have no best; losses of different kinds and times are not ranked.
    for name in ("Calibration error (ECE)", "Loss", "Training, s per 100 images"):
        assert not any("best" in row[head.index(name)] for row in rows)
    assert "without a confidence interval is no evidence" in page.text
    assert "trained with different losses" in page.text
    assert "Not evaluated on the test split yet: c." in page.text
    recalls = page.table("Recall per class")
    assert recalls[0][1].startswith("normal")


def test_differences_in_configuration_are_listed_and_marked(three: str) -> None:
    page = Page(three)
    rows = {row[0]: row[1:] for row in page.table("Fields that differ between the runs")}
    assert rows == {"Field": ["a", "b", "c"], "seed": ["0", "1", "0"], "loss.name": ["fafl", "cross_entropy", "fafl"]}
    configuration = {row[0]: row[1] for row in page.table("Configuration") if len(row) > 1}
    assert configuration["name"] in ("fafldiffers", "lrf_cnn") and configuration["seed"] == "0differs"
    assert configuration["variant"] == "corrected"


def test_runs_on_different_images_are_not_comparable(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert "different images" not in Page(report_files.render_report([first, second])).text
    make_data(second, seed=5)
    text = Page(report_files.render_report([first, second])).text
    assert "were evaluated on different images" in text and "were trained on different images" in text


def test_groups_in_more_than_one_split_cause_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    manifest = manifests.load(run)
    rows = tuple(manifests.Row(**(vars(row) | {"group": "one"})) for row in manifest.rows)
    changed = manifests.Manifest(manifest.root, manifest.classes, rows)
    split = splits.load(run, manifest)
    manifests.save(changed, run)
    splits.save(split, changed, run)
    text = Page(report_files.render_report([run])).text
    assert "1 group(s) have images in more than one split, which makes the results optimistic" in text


def test_curves_are_tidy(runs: list[Path]) -> None:
    curves = report.load_curves(runs[:2])
    assert list(curves) == ["run", "arm", "seed", "split", "step", "epoch", "metric", "value"]
    assert len({len(column) for column in curves.values()}) == 1
    chosen = (curves["run"] == "b") & (curves["split"] == "val") & (curves["metric"] == "loss")
    assert curves["step"][chosen].tolist() == [20, 40, 60, 80, 100]
    assert curves["epoch"][chosen].tolist() == [1, 2, 3, 4, 5]
    assert curves["value"][chosen] == pytest.approx([3 / step for step in (20, 40, 60, 80, 100)])


def test_curves_tolerate_a_line_being_written_and_keep_the_last_of_repeated_steps(tmp_path: Path) -> None:
    lines = ['{"step": 2, "split": "val", "mcc": null}', '{"step": 1, "epoch": 0.5, "split": "train", "loss": 3}']
    lines += ['{"step": 1, "epoch": 0.5, "split": "train", "loss": 2, "note": "x"}', '{"step": 3, "split": "tra']
    files.write_text(tmp_path / "metrics.jsonl", "\n".join(lines))
    curves = report.load_curves([tmp_path])
    assert curves["metric"].tolist() == ["loss", "mcc"]
    assert curves["value"].tolist() == pytest.approx([2.0, np.nan], nan_ok=True)
    assert curves["epoch"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    files.write_text(tmp_path / "metrics.jsonl", "\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=r"1 unreadable line\(s\): 4"):
        report.load_curves([tmp_path])
    files.write_text(tmp_path / "metrics.jsonl", "")
    assert all(len(column) == 0 for column in report.load_curves([tmp_path]).values())


def test_runs_of_one_name_get_distinct_names(tmp_path: Path) -> None:
    for seed in ("seed0", "seed1"):
        files.write_text(tmp_path / seed / "run" / "metrics.jsonl", '{"step": 1, "split": "val", "mcc": 1}\n')
    curves = report.load_curves([tmp_path / "seed0" / "run", tmp_path / "seed1" / "run"])
    assert curves["run"].tolist() == ["seed0/run", "seed1/run"]


@pytest.mark.parametrize("case", ["absent", "empty", "twice", "folder"])
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "page.html"
    arguments = {
        "absent": [str(tmp_path / "nowhere"), f"--out={out}"],
        "empty": [str(runs[0]), str(tmp_path / "empty"), f"--out={out}"],
        "twice": [str(runs[0]), str(runs[0]), f"--out={out}"],
        "folder": [str(runs[0]), f"--out={tmp_path}"],
    }[case]
    assert command_line.run(report.main, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    if case in ("absent", "empty"):
        assert "is not a run directory" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_page_or_table_that_no_earlier_report_wrote_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    page.write_text("mine")
    assert command_line.run(report.main, [str(run), f"--out={page}"]) == 2
    assert f"would overwrite {page}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"] and page.read_text() == "mine"
    page.unlink()
    table = tmp_path / "page_data" / "run" / "learning_curves.csv"
    files.write_text(table, "mine")
    assert command_line.run(report.main, [str(run), f"--out={page}"]) == 2
    assert f"would overwrite {table}" in capsys.readouterr().err
    assert not page.exists() and list(table.parent.parent.rglob("*.*")) == [table]
    table.rename(table.with_name("mine.csv"))
    for _ in range(2):
        assert command_line.run(report.main, [str(run), f"--out={page}"]) == 0
    assert table.is_file() and table.with_name("mine.csv").read_text() == "mine"


def test_two_reports_at_once_are_whole(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, evaluated=()) for name in ("a", "b")]
    expected = [report_files.render_report([run]) for run in runs]
    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(lambda run: report_files.write_report([run], tmp_path / "page.html"), runs))
    name = runs[expected.index(pages[0].read_text(encoding="utf-8"))].name
    listed = json.loads((tmp_path / "page_data" / "contents.json").read_text())
    tables = [path.relative_to(tmp_path / "page_data").as_posix() for path in (tmp_path / "page_data").rglob("*.csv")]
    assert sorted(listed) == sorted(tables) and all(table.startswith(f"{name}/") for table in tables)


def test_equal_inputs_give_an_equal_page(runs: list[Path], three: str, tmp_path: Path) -> None:
    path = report_files.write_report(runs, tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == three


def test_the_page_is_written_into_the_first_run_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", evaluated=())
    assert command_line.run(report.main, [str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "report.html" in capsys.readouterr().out


def test_curves_of_long_runs_are_downsampled() -> None:
    steps = np.arange(100_000.0)
    svg = figures.curves([figures.Line(steps, np.sin(steps), markers=True)], "step", "f-", "long", {})
    assert len(svg) < 30_000


def test_help_needs_no_drawing_library() -> None:
    program = (
        "import sys; from dim_jax import report; from dim_jax.cli import command_line\n"
        "try: report.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'matplotlib', 'jinja2', 'PIL', 'jax', 'scipy', 'sklearn', 'plotly'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_scores_are_shown_with_and_without_the_adjustment(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "eval" / "test" / "metrics.json"
    metrics = files.read_json(path)
    choice = {"tau": 1.25, "shifts": [], "temperature": 2.0, "criterion": "macro_f1", "num_images": 6}
    adjusted = metrics | {"macro_f1": 0.987654, "adjustment": choice}
    files.write_json(path, metrics | {"adjusted": adjusted})
    page = Page(report_files.render_report([run]))
    header, *rows = page.table("Summary metrics")
    assert header == ["Metric", "test", "test, adjusted", "validation"]
    values = {row[0]: row[1:] for row in rows}
    assert values["Macro F1"][:2] == [f"{metrics['macro_f1']:.3f}", "0.988"] and "adjusted" not in values
    assert "chosen by macro_f1 of 6 validation images" in page.text
    other = make_run(tmp_path / "other")
    rows = Page(report_files.render_report([run, other])).table("Summary metrics, logits adjusted on validation images")
    column = rows[0].index("Macro F1")
    assert [row[column] for row in rows[1:]] == ["0.988", "–"]
    files.write_json(path, metrics | {"adjusted": None})
    assert "test, adjusted" not in Page(report_files.render_report([run])).text


def test_scores_per_image_and_by_case_are_shown_with_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    path = run / "eval" / "test" / "metrics.json"
    scored = {"scores": {"macro_f1": {"value": 0.5, "low": 0.25, "high": 0.75}}, "no_interval": None}
    by_case = {"num_cases": 7, "num_mixed": 2, "mean": scored | {"no_interval": "class 1 has <b>"}}
    intervals = {"unit": "case", "num_units": 7, "plain": scored, "adjusted": None}
    extra = {"intervals": intervals, "by_case": {"severity": None, "plain": by_case, "adjusted": None}}
    files.write_json(path, files.read_json(path) | extra)
    answer = {"mean": "polyp", "probabilities": {}}
    case = {"case": "=1+1", "images": {"normal": 2}, "plain": answer, "adjusted": None}
    files.write_json(run / "eval" / "test" / "cases.json", {"cases": [case]})
    html = report_files.render_report([run])
    page = Page(html)
    header, *rows = page.table("Scores with 95 % intervals, test")
    assert header[:3] == ["Scored", "number", "Macro F1"]
    assert [row[:3] for row in rows] == [
        ["images", "18", "0.500 (0.250 to 0.750)"],
        ["cases by the mean of their images", "7", "0.500 (0.250 to 0.750)"],
    ]
    assert "2 of the cases have images of several classes" in page.text and "class polyp has <b>." in page.text
    assert links(html)["run_cases_test.csv"][1][:3] == ["'=1+1", "2 normal", "polyp"]
    for broken in ({"intervals": 3, "by_case": []}, {"intervals": {"plain": {"scores": []}}, "by_case": {"plain": 1}}):
        files.write_json(path, files.read_json(path) | broken)
        assert "intervals, test" not in Page(report_files.render_report([run])).text


def test_costs_are_shown_with_the_mean_cost_of_the_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    path = run / "eval" / "test" / "metrics.json"
    matrix = [[0, 1, 1, 0.25], [1, 0, 1, 0.25], [20, 20, 0, 0.25]]
    least = {"value": 0.125, "low": None, "high": None, "abstained": 0.5}
    cost = {"matrix": matrix, "plain": {"value": 0.5, "low": 0.25, "high": 0.75}, "least_expected": least}
    files.write_json(path, files.read_json(path) | {"cost": cost})
    page = Page(report_files.render_report([run]))
    header, *rows = page.table("Costs of answers, test")
    assert header == ["True class", *CLASSES, "abstain"] and rows[2] == ["adenocarcinoma", "20", "20", "0", "0.25"]
    assert "0.500 (0.250 to 0.750) of the most probable class" in page.text and "0.125 of the answer" in page.text
    assert "abstains from 50.0% of the images" in page.text
    files.write_json(path, files.read_json(path) | {"cost": {"matrix": [[0]]}})
    assert "Costs of answers" not in Page(report_files.render_report([run])).text
