"""Figures of the report for features, Grad-CAM maps and times, and the CSV tables of all figures."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CLASSES, HOSTILE, Page, complete, links, make_run

from dim_jax import report
from dim_jax.cli import command_line
from dim_jax.reporting import (
    class_distances,
    comparison,
    embedding,
    figures,
    predictions,
    report_files,
    run_directory,
    saliency,
    stage_times,
    tables,
)
from dim_jax.runs import files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete(make_run(tmp_path_factory.mktemp("figures") / "a"))


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return report_files.render_report([run])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run whose classes are named like markup, code, formulas and templates."""
    names = ("=cmd()", "<b>x</b>", "</script><script>alert(1)</script>%{x}")
    run = complete(make_run(tmp_path_factory.mktemp("hostile") / "run", names))
    return report_files.render_report([run])


def cloud(html: str) -> dict:
    """The plotly figure in a page."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1))


def own_text(html: str) -> str:
    """The page without the text of its scripts."""
    return re.sub(r"<script>.*?</script>", "", html, flags=re.S)


# Distances


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_class_distances_are_a_metric_and_invariant_to_rotation_and_translation(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(number), rng.integers(0, number, 20)])
    features = rng.normal(size=(len(label), 6)) + label[:, None]
    distances = class_distances.measure(features, label, number)
    np.testing.assert_allclose(distances.between, distances.between.T)
    assert (np.diag(distances.between) == 0).all() and (distances.between >= 0).all() and (distances.spread >= 0).all()
    through = distances.between[:, :, None] + distances.between[None]
    assert (distances.between[:, None, :] <= through + 1e-9).all()
    turned = class_distances.measure(features @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 7, label, number)
    np.testing.assert_allclose(turned.between, distances.between, atol=1e-9)
    np.testing.assert_allclose(turned.spread, distances.spread, atol=1e-9)
    # Networks have features of any size, so what is shown is relative.
    larger = class_distances.measure(1000 * features, label, number)
    np.testing.assert_allclose(larger.between / larger.unit, distances.between / distances.unit, atol=1e-9)


def test_distances_of_four_points_by_hand() -> None:
    features = np.array([[0.0, 0], [0, 2], [3, 1], [3, 1]])
    distances = class_distances.measure(features, np.array([0, 0, 1, 1]), 3)
    assert distances.between[0, 1] == pytest.approx(3)
    assert distances.spread[:2].tolist() == pytest.approx([1, 0]) and distances.unit == pytest.approx(0.5)
    assert (
        np.isnan(distances.spread[2]) and np.isnan(distances.between[2]).all() and distances.count.tolist() == [2, 2, 0]
    )


def test_distances_on_the_page_equal_those_of_the_features(run: Path, html: str) -> None:
    page, arrays = Page(html), np.load(run / "eval" / "test" / "predictions.npz")
    distances = class_distances.measure(arrays["features"], arrays["label"], 3)
    expected = distances.between / distances.unit
    shown = page.table("Class distances, test split")
    assert shown[0] == ["Class", *CLASSES]
    assert [row[1:] for row in shown[1:]] == [[f"{value:.2f}" for value in row] for row in expected]
    numbers = links(html)["a_class_distances_test.csv"]
    assert numbers[0] == ["class", "images", "spread", *CLASSES]
    np.testing.assert_allclose(np.array([row[3:] for row in numbers[1:]], float), expected)
    nearest = page.table("Nearest class")[1:]
    assert [row[2] for row in nearest] == [f"{float(row[2]):.2f}" for row in numbers[1:]]
    apart = np.where(np.eye(3, dtype=bool), np.inf, expected)
    assert [row[3] for row in nearest] == [CLASSES[at] for at in apart.argmin(1)]
    first, second = (CLASSES[at] for at in np.unravel_index(apart.argmin(), apart.shape))
    assert f"Closest pair: “{first}” and “{second}”, {apart.min():.2f} apart." in page.text


# Reliability


@pytest.mark.parametrize("odd", [[0.5], ":", None, float("nan"), 1e300, 10**400, -0.1])
@pytest.mark.parametrize("place", ["confidence", "accuracy", "count"])
def test_an_invalid_bin_is_left_out_of_the_reliability_diagram(place: str, odd: object) -> None:
    bins = [{"confidence": at / 4, "accuracy": at / 5, "count": at} for at in range(1, 5)]
    whole = figures.reliability(bins, "", "words")
    assert figures.reliability([*bins, bins[0] | {place: odd}], "", "words") == whole
    assert figures.reliability([bins[0] | {place: odd}], "", "words").startswith("<svg")


# Embedding


def test_embedding_is_deterministic_and_keeps_neighbours() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), 40)
    features = rng.normal(size=(120, 5)) + 10 * np.eye(5)[label]
    first, second = (embedding.embed(features, label) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    assert first.points.shape == (120, 3) and first.perplexity == 30
    apart = np.linalg.norm(first.points[:, None] - first.points[None], axis=2) + np.diag(np.full(120, np.inf))
    assert (label[apart.argmin(1)] == label).mean() > 0.9
    assert embedding.embed(features[:20], label[:20]).perplexity == pytest.approx(19 / 3)


@pytest.mark.parametrize("features", [np.ones((9, 4)), np.ones((30, 4)), np.zeros((30, 0))])
def test_features_that_cannot_be_embedded_give_a_sentence(features: np.ndarray) -> None:
    assert isinstance(embedding.embed(features, np.zeros(len(features), int)), str)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(1, 100))
def test_a_sample_has_the_same_share_of_every_class(label: list[int], most: int) -> None:
    place = embedding.sample(np.array(label), most)
    assert len(place) <= max(most + 5, min(len(label), most)) and (np.diff(place) > 0).all()
    for number in set(label):
        expected = label.count(number) * min(1, most / len(label))
        assert expected <= np.count_nonzero(np.array(label)[place] == number) < expected + 1


def test_the_cloud_holds_every_image_with_its_prediction(run: Path, html: str) -> None:
    arrays, figure = np.load(run / "eval" / "test" / "predictions.npz"), cloud(html)
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(arrays["index"])
    wrong = sum(len(trace["x"]) for trace in figure["data"] if trace["marker"]["symbol"] == "diamond")
    assert wrong == np.count_nonzero(arrays["logits"].argmax(1) != arrays["label"])
    rows = links(html)["a_t_sne_test.csv"]
    assert rows[0] == ["image", "true class", "predicted class", "probability", "x", "y", "z"]
    assert len(rows) == 1 + len(arrays["index"])
    texts = [text for trace in figure["data"] for text in trace["text"]]
    path, true, predicted, probability = rows[1][:4]
    assert f"{path}<br>{true} → {predicted} ({float(probability):.2f})" in texts
    points = {tuple(np.round(np.array(row[4:], float), 2)) for row in rows[1:]}
    plotted = {
        tuple(np.round(point, 2))
        for trace in figure["data"]
        for point in zip(*(trace[axis] for axis in "xyz"), strict=True)
    }
    assert all(min(np.abs(np.subtract(point, other)).max() for other in plotted) < 0.011 for point in points)


def test_plotly_is_included_once_and_only_if_needed(run: Path, tmp_path: Path, html: str) -> None:
    assert html.count("plotly.js v") == 1 and "script-src 'sha256-" in html
    both = report_files.render_report([run, complete(make_run(tmp_path / "b", seed=1))])
    assert both.count("plotly.js v") == 1 and both.count('<figure class="embedding">') == 2
    plain = report_files.render_report([make_run(tmp_path / "plain")])
    assert "<script" not in plain and "script-src" not in plain
    assert "The features are the same for all images" in plain


# Grad-CAM


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000))
def test_overlay_peaks_where_the_map_peaks_and_leaves_the_rest_alone(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, column = rng.integers(height), rng.integers(width)
    values = np.zeros((height, width), np.float16)
    values[row, column] = 1
    image = np.full((96, 96, 3), 200, np.uint8)
    changed = np.abs(saliency.overlay(image, values).astype(int) - 200).sum(2)
    place = np.argwhere(changed == changed.max()).mean(0)
    assert saliency.peak(values) == ((column + 0.5) / width, (row + 0.5) / height)
    inside = (place / 96 * (height, width)).astype(int)
    assert tuple(inside) == (row, column)
    far = np.ones((height, width), bool)
    far[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
    centres = ((np.argwhere(far) + 0.5) * 96 / (height, width)).astype(int)
    assert (changed[tuple(centres.T)] == 0).all()


def test_an_empty_map_leaves_the_image_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(saliency.overlay(image, np.zeros((4, 4), np.float16)), image)
    assert saliency.peak(np.zeros((4, 4))) is None


def test_every_example_has_image_and_overlay(html: str) -> None:
    pictures = [attributes["alt"] for tag, attributes in Page(html).elements if tag == "img"]
    originals = [name for name in pictures if not name.startswith("Grad-CAM over ")]
    assert originals and sorted(pictures) == sorted([*originals, *(f"Grad-CAM over {name}" for name in originals)])
    rows = links(html)["a_examples_test.csv"]
    assert sorted(row[2] for row in rows[1:]) == sorted(originals)
    assert {row[1] for row in rows[1:]} == {"right", "wrong"}
    assert all(0 < float(value) < 1 for row in rows[1:] for value in row[5:])


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ({"images": 64, "rank_correlation": 0.1234}, "they depend on the learned weights, as they should"),
        ({"images": 64, "rank_correlation": -0.5}, "changed only in part"),
        ({"images": 64, "rank_correlation": 0.95}, "Do not draw conclusions from them"),
        ({"images": 0, "rank_correlation": None}, "was not made or was not possible"),
        (None, "was not made or was not possible"),
        ("broken", "was not made or was not possible"),
    ],
)
def test_the_sanity_check_is_described(check: object, text: str) -> None:
    (sentence,) = saliency.check_sentences(check)
    assert text in sentence
    if "Sanity" in sentence:
        assert f": {check['rank_correlation']:.2f} (" in sentence and "64 images" in sentence


def test_evaluations_without_grad_cam_maps_are_shown_without_overlays(tmp_path: Path) -> None:
    run = complete(make_run(tmp_path / "run"))
    for path in run.glob("eval/*/predictions.npz"):
        arrays = {key: value for key, value in np.load(path).items() if key != "grad_cam"}
        np.savez(path, **arrays)
    html = report_files.render_report([run])
    page = Page(html)
    assert "evaluated by a version without Grad-CAM maps; to make them, run python -m dim_jax.evaluate" in page.text
    assert not any(name.startswith("Grad-CAM over") for name in page.attributes("alt"))
    assert links(html)["run_examples_test.csv"][0][-1] == "probability"
    assert page.table("Nearest class")


# Time


def test_times_of_the_stages_add_up(run: Path, html: str) -> None:
    # Ten dispatches, the first compiled: 30 s; nine of 4 s, a quarter of it waiting; five validations; checkpoints.
    page = Page(html)
    rows = {row[0]: row[1] for row in page.table("Time per stage")}
    assert rows == {
        "Stage": "Time",
        "Preparing the data": "12.0 s",
        "Start, with compilation": "30.0 s",
        "Training steps": "36.0 s",
        "of it waiting for data": "9.0 s",
        "Validation during training": "10.0 s",
        "Checkpoints (without the last)": "1.5 s",
        "Evaluation, test split": "7.5 s",
        "Evaluation, validation split": "7.5 s",
        "Total of recorded times": "1 min 44 s",
    }
    seconds = {row[0]: row[1] for row in links(html)["a_time_per_stage.csv"][1:]}
    assert seconds["Training steps"] == "36" and seconds["of it waiting for data"] == "9"
    # Times are no curves and no metrics.
    assert {row[1] for row in links(html)["a_learning_curves.csv"][1:]} == {
        "loss",
        "macro_f1",
        "accuracy",
        "learning_rate",
    }
    assert not any("second" in row[0] for row in page.table("Summary metrics"))


def test_stages_that_were_not_timed_get_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    stages = stage_times.measure(run_directory.read("run", run))
    assert all(stage.seconds is None for stage in stages)
    page = Page(report_files.render_report([run]))
    assert {row[1] for row in page.table("Time per stage")[1:]} == {"–"}
    assert "The times of the stages of this run were not recorded" in page.text


# Tables


@given(st.text())
def test_no_cell_is_a_formula_and_every_cell_comes_back(text: str) -> None:
    table = tables.Table("t", "t", ("name",), [(text,)])
    ((cell,),) = list(csv.reader(io.StringIO(table.text)))[1:] or [[""]]
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert cell.removeprefix("'") == tables.printable(text).removeprefix("'")


def test_numbers_are_written_as_numbers() -> None:
    values = (-1.5, np.float32(-0.5), np.int64(-3), 0, 1e-7, None, float("nan"), float("inf"))
    assert [tables.cell(value) for value in values] == ["-1.5", "-0.5", "-3", "0", "1e-07", "", "", ""]


def test_csv_tables_have_the_numbers_of_the_page(run: Path, html: str) -> None:
    page, numbers = Page(html), links(html)
    metrics = files.read_json(run / "eval" / "test" / "metrics.json")
    confusion = numbers["a_confusion_matrix_test.csv"]
    assert confusion[0] == ["true class", *CLASSES]
    assert [list(map(int, row[1:])) for row in confusion[1:]] == metrics["confusion_matrix"]
    shown = page.table("Results per class, test split")[1:]
    for row, cells in zip(numbers["a_per_class_test.csv"][1:], shown, strict=True):
        assert row[:4] == cells[:4]
        assert ["–" if value == "" else f"{float(value):.3f}" for value in row[4:]] == cells[4:]
    summary = {row[0]: row[1] for row in numbers["a_summary_metrics.csv"]}
    assert float(summary["macro_f1"]) == pytest.approx(metrics["macro_f1"]) and summary["g_mean"] == ""
    assert numbers["a_reliability_test.csv"][1] == ["0", "0.5", "0", "", ""]
    counts = {row[0]: row[1:] for row in numbers["a_images_per_class.csv"]}
    assert [row[1:5] for row in page.table("Images per class and split")[1:-1]] == [counts[name] for name in CLASSES]
    curve = [row for row in numbers["a_learning_curves.csv"] if row[1:3] == ["loss", "val"]]
    assert [float(row[4]) for row in curve] == pytest.approx([3 / step for step in (20, 40, 60, 80, 100)])


def test_comparisons_have_csv_tables(run: Path, tmp_path: Path) -> None:
    numbers = links(report_files.render_report([run, complete(make_run(tmp_path / "b", loss="cross_entropy", seed=1))]))
    scores = numbers["comparison_summary_metrics_test.csv"]
    column = scores[0].index("macro_f1")
    expected = files.read_json(run / "eval" / "test" / "metrics.json")["macro_f1"]
    assert scores[1][0] == "a" and float(scores[1][column]) == pytest.approx(expected)
    assert numbers["comparison_recall_per_class_test.csv"][0] == ["run", *CLASSES]
    assert ["loss.name", "fafl", "cross_entropy"] in numbers["comparison_configuration_differences.csv"]
    assert {row[0] for row in numbers["comparison_learning_curves.csv"][1:]} == {"a", "b"}


def test_the_lowest_cross_entropy_is_the_best(run: Path, tmp_path: Path) -> None:
    runs = [run, complete(make_run(tmp_path / "b", seed=1))]
    views = [run_directory.read(one.name, one) for one in runs]
    for at, view in enumerate(views):
        view.evaluations["test"]["cross_entropy"] = 0.5 + at
    compared = comparison.view(views)
    column = [item["title"] for item in compared["metrics"]].index("Cross-entropy")
    assert [row[column]["best"] for row in compared["scores"]] == [True, False]


def test_hostile_class_names_are_escaped_everywhere(hostile: str) -> None:
    html = hostile
    page = Page(own_text(html))
    assert not {"b"} & {tag for tag, attributes in page.elements if "x" in attributes}
    assert html.count("<script") == 3 and "<b>x</b>" not in own_text(html)
    for name in ("=cmd()", "<b>x</b>", "</script><script>alert(1)</script>%{x}"):
        assert name in page.text
    names = {trace["name"] for trace in cloud(html)["data"]}
    assert names == {"=cmd()", "&lt;b&gt;x&lt;/b&gt;", "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;%&#123;x}"}
    assert not any(text.count("<") != 1 or "%{" in text for trace in cloud(html)["data"] for text in trace["text"])
    assert links(html)["run_confusion_matrix_test.csv"][0][1] == "'=cmd()"
    assert links(html)["run_class_distances_test.csv"][1][0] == "'=cmd()"


def test_policy_allows_exactly_the_scripts_of_the_page(html: str) -> None:
    import hashlib

    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in scripts]
    assert len(scripts) == 2 and re.findall(r"'sha256-([^']+)'", html.split("</head>")[0]) == digests


def test_equal_runs_give_an_equal_page_and_equal_files(run: Path, html: str, tmp_path: Path) -> None:
    first, second = (report_files.write_report([run], tmp_path / name / "page.html") for name in ("one", "two"))
    assert first.read_text(encoding="utf-8") == second.read_text(encoding="utf-8") == html
    written = sorted(path.relative_to(first.parent) for path in first.parent.rglob("*.csv"))
    assert all((first.parent / path).read_bytes() == (second.parent / path).read_bytes() for path in written)
    assert {path.parent.as_posix() for path in written} == {"page_data/a"}
    texts = {f"a_{path.name}": (first.parent / path).read_text("utf-8-sig") for path in written}
    texts = {name: list(csv.reader(io.StringIO(text))) for name, text in texts.items()}
    assert texts == links(html)


def test_a_new_report_replaces_its_own_files_and_no_others(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "b", evaluated=())
    page = report_files.write_report([run, other], tmp_path / "page.html")
    data = tmp_path / "page_data"
    assert (data / "comparison" / "learning_curves.csv").is_file() and (data / "a" / "t_sne_test.csv").is_file()
    (data / "a" / "mine.csv").write_text("mine")
    (data / "notes.txt").write_text("mine")
    listed = files.read_json(data / "contents.json")
    files.write_json(data / "contents.json", [*listed, "../../outside.csv", "a/../../b/config.json", 7])
    (tmp_path / "outside.csv").write_text("mine")
    report_files.write_report([other], page)
    left = sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())
    assert left == ["a/mine.csv", "b/images_per_class.csv", "b/learning_curves.csv", "b/time_per_stage.csv",
                    "contents.json", "notes.txt"]  # fmt: skip
    assert (tmp_path / "outside.csv").is_file() and (other / "config.json").is_file()


def test_the_folder_of_an_earlier_page_is_not_taken_for_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, evaluated=())
    for _ in range(2):
        folders = sorted(map(str, tmp_path.glob("*/")))
        assert command_line.run(report.main, [*folders, f"--out={tmp_path / 'report.html'}"]) == 0
    assert (tmp_path / "report_data").is_dir() and len(folders) == 3
    assert command_line.run(report.main, [str(tmp_path / "report_data")]) == 2
    assert "no run was given" in capsys.readouterr().err


@given(st.lists(st.text(), max_size=8))
def test_names_of_files_are_safe_and_different(names: list[str]) -> None:
    stems = tables.unique_stems(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", stem) for stem in stems)
    assert len({stem.casefold() for stem in stems}) == len(names)


@pytest.mark.parametrize("broken", ["features", "grad_cam", "index", "label"])
def test_invalid_arrays_are_reported_and_the_rest_is_shown(tmp_path: Path, broken: str) -> None:
    run = complete(make_run(tmp_path / "run"))
    path = run / "eval" / "test" / "predictions.npz"
    arrays = dict(np.load(path))
    arrays[broken] = {
        "features": np.full((len(arrays["index"]), 3), np.nan),
        "grad_cam": arrays["grad_cam"][:-1],
        "index": arrays["index"] + 1000,
        "label": arrays["label"] + 5,
    }[broken]
    np.savez(path, **arrays)
    text = Page(report_files.render_report([run])).text
    reasons = {"features": "not finite", "grad_cam": "arrays have different lengths", "index": "not in the manifest"}
    assert reasons.get(broken, "its classes are not those of the data") in text
    result = predictions.read(run_directory.read("run", run), "test")
    assert isinstance(result, str) == (broken != "features")


def test_hostile_names_leave_no_control_characters(tmp_path: Path) -> None:
    run = complete(make_run(tmp_path / "run", HOSTILE))
    page = report_files.write_report([run], tmp_path / "page.html")
    texts = [own_text(page.read_text(encoding="utf-8"))]
    texts += [path.read_text(encoding="utf-8") for path in tmp_path.glob("page_data/*/*.csv")]
    assert not any(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text) for text in texts)
