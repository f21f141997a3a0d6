"""The report page of GANs: images, learning curves, warnings, and missing or damaged files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from PIL import Image
from report_runs import CLASSES, HOSTILE, Page, links, make_data, make_run

from configs import gan as gan_config
from dim_jax.gan import sample_sheets
from dim_jax.reporting import gan_view, panels, report_files, run_directory, sheets
from dim_jax.runs import files

STEPS = (20, 40, 60)


def make_gan(folder: Path, classes: tuple[str, ...] = CLASSES, **changed: Any) -> Path:
    """Fabricates the run directory of a GAN over the class `classes[0]`: 60 steps, a sheet every 20, an animation.

    Args:
      changed: values of training metrics, at all steps; `conditional` and `diversity` are no training metrics.
    """
    make_data(folder, classes)
    config = gan_config.get_config("test").to_dict()
    conditional, diversity = changed.pop("conditional", False), changed.pop("diversity", 0.8)
    config["gan"] |= {"conditional": conditional, "label": "" if conditional else classes[0]}
    config["train"] |= {"num_train_steps": STEPS[-1]}
    files.write_json(folder / "config.json", config)
    environment = {"started": "2025-01-02T03:04:05", "python": "3.11", "devices": ["cpu:0"]}
    files.write_json(folder / "environment.json", environment)
    lines = []
    for step in range(2, STEPS[-1] + 1, 2):
        values = {
            "discriminator_loss": 2.5 - step / 100,
            "generator_loss": step / 60,
            "hinge_real": 0.7,
            "hinge_fake": 0.6,
            **{f"reconstruction_{name}": 1 / step for name in ("whole", "small", "part")},
            "logit_real": 0.2,
            "logit_fake": -0.3,
            "logit_real_sign": 0.4,
            "discriminator_gradient_norm": 3.0,
            "generator_gradient_norm": 0.5,
            "augment_probability": 1.0,
            "learning_rate": 2e-4,
        } | changed
        timing = {"seconds": 4.0, "seconds_per_step": None if step == 2 else 2.0, "data_wait_share": 0.25}
        line = {"step": step, "split": "train", "epoch": step / 10, **values, **timing, "checkpoint_seconds": 0.0}
        lines.append(line)
        if step in STEPS:
            lines.append({"step": step, "split": "samples", "epoch": step / 10, "diversity": diversity, "seconds": 3.0})
    files.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rng, rows = np.random.default_rng(0), len(classes) if conditional else 8
    frames = []
    for step in STEPS:
        frames.append(draw(folder, sample_sheets.SAMPLES, step, rng, (8 * rows, 16, 16, 3), 8))
        draw(folder, sample_sheets.RECONSTRUCTIONS, step, rng, (12, 16, 16, 3), 4)
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=300, loop=0)
    files.write_bytes(folder / sample_sheets.FOLDER / sample_sheets.ANIMATION, buffer.getvalue())
    return folder


def draw(
    folder: Path, kind: str, step: int, rng: np.random.Generator, shape: tuple[int, ...], columns: int
) -> Image.Image:
    """Writes a sheet of noise, as sample_sheets does."""
    images = rng.integers(0, 240, (shape[0], 1, 1, 3), np.uint8) + rng.integers(0, 9, shape, np.uint8)
    sheet, buffer = sample_sheets.grid(images, columns), io.BytesIO()
    sheet.save(buffer, "PNG")
    files.write_bytes(folder / sample_sheets.FOLDER / f"{kind}_{step:07d}.png", buffer.getvalue())
    return sheet


def pictures(page: Page) -> list[str]:
    """Text alternatives of the images of a page."""
    return [attributes["alt"] for tag, attributes in page.elements if tag == "img"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gan(tmp_path_factory.mktemp("gan") / "a")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return report_files.render_report([run])


def test_the_report_and_the_trainer_use_the_same_file_names() -> None:
    ours = (sheets.FOLDER, sheets.SAMPLES, sheets.RECONSTRUCTIONS, sheets.ANIMATION)
    theirs = (sample_sheets.FOLDER, sample_sheets.SAMPLES, sample_sheets.RECONSTRUCTIONS, sample_sheets.ANIMATION)
    assert ours == theirs


def test_the_header_has_the_facts_of_the_run_and_the_disclaimer(html: str) -> None:
    page = Page(html)
    facts = (
        "GAN · class “normal” · 64 px · width 0.03125 · gate gc · up residual · reconstruction by pixels, no network"
    )
    for text in (
        f"{facts} · 60 steps · seed 0 · started 2025-01-02 03:04",
        "60 of 60 steps are done.",
        "differ 0.80 times as much among themselves as real ones",
        "Generated images are synthetic",
        "No checkpoint was selected by a score",
        "Research software, not a medical device",
    ):
        assert text in page.text
    assert "not finished" not in page.text and "has not been evaluated" not in page.text
    assert dict(page.table("About the data"))["Trained on"] == "2 training images, class “normal”"


def test_every_sheet_is_in_the_page(html: str) -> None:
    page = Page(html)
    assert pictures(page) == [
        "Grid of images generated at step 60",
        *(f"Grid of images generated at step {step}, small" for step in STEPS),
        "Animation of the grids from the first to the last step",
        "Real training images and their reconstructions at step 60, in columns: "
        + ", ".join(sheets.RECONSTRUCTION_COLUMNS),
    ]
    kinds = [attributes["src"].partition(";")[0] for tag, attributes in page.elements if tag == "img"]
    assert kinds == ["data:image/jpeg"] * 4 + ["data:image/webp", "data:image/jpeg"]
    assert all(f"{name}" in page.texts for name in sheets.RECONSTRUCTION_COLUMNS)
    assert "img-src data:" in html and "<script" not in html


def test_curves_and_their_numbers_are_those_logged(run: Path, html: str) -> None:
    page = Page(html)
    for group in gan_view.GROUPS:
        assert group.title in page.text and all(name in page.text for name in group.metrics.values())
    rows = links(html)["a_learning_curves.csv"]
    assert rows[0] == ["run", "metric", "split", "step", "value"]
    curves = {(row[2], row[1]) for row in rows[1:]}
    assert curves == {key for group in gan_view.GROUPS for key in group.metrics}
    loss = {int(row[3]): float(row[4]) for row in rows if row[1] == "discriminator_loss"}
    assert loss == pytest.approx({step: 2.5 - step / 100 for step in range(2, 61, 2)})
    metrics = {row[0]: row[1:] for row in page.table("Metrics during training")}
    assert metrics["Discriminator loss"] == ["2.48", "1.92", "1.9", "2.48"]
    assert metrics["Learning rate"] == ["0.0002"] * 4
    assert not any("second" in name.lower() for name in metrics)


def test_times_count_the_drawing_of_sheets(html: str) -> None:
    rows = {row[0]: row[1] for row in Page(html).table("Time per stage")}
    assert rows["Start, with compilation"] == "4.0 s" and rows["Training steps"] == "1 min 56 s"
    assert rows["Sample sheets during training"] == "9.0 s" and "Validation during training" not in rows


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"diversity": 0.12}, "differ 0.12 times as much among themselves as real ones"),
        ({"logit_real_sign": 0.97}, "may have memorised the training images"),
        ({"hinge_real": 0.01, "hinge_fake": 0.02}, "Both hinge losses are near 0"),
    ],
)
def test_signs_of_failure_cause_a_warning(tmp_path: Path, run: Path, changed: dict[str, float], text: str) -> None:
    assert gan_view.notes(run_directory.read("good", run)) == []
    (note,) = gan_view.notes(run_directory.read("bad", make_gan(tmp_path / "run", **changed)))
    assert text in note


def test_one_hinge_loss_near_zero_or_unknown_is_no_warning(tmp_path: Path) -> None:
    for at, changed in enumerate(({"hinge_real": 0.01}, {"hinge_real": 0.01, "hinge_fake": None})):
        assert gan_view.notes(run_directory.read("run", make_gan(tmp_path / str(at), **changed))) == []


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    run = make_gan(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    for path in (run / "samples").iterdir():
        path.unlink()
    text = Page(report_files.render_report([run])).text
    assert "Training is not finished: step 8 of 60 is the last one logged." in text
    assert "There is no grid of generated images yet." in text and "There are no reconstructions yet" in text
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines([*lines[:4], '{"step": 9, "split": "diverged", "generator_loss": "nan"}\n'])
    (_, stopped) = gan_view.notes(run_directory.read("run", run))
    assert stopped == "Training stopped at step 9: a loss was no longer a finite number."


def test_a_run_with_nothing_but_its_configuration_is_shown(tmp_path: Path) -> None:
    files.write_json(tmp_path / "run" / "config.json", {"trainer": "gan", "gan": 3, "train": {"num_train_steps": "x"}})
    text = Page(report_files.render_report([tmp_path / "run"])).text
    for sentence in ("Nothing has been logged yet", "There is no manifest.json", "no grid of generated images yet"):
        assert sentence in text


def test_a_damaged_configuration_is_reported_and_the_images_are_shown(tmp_path: Path) -> None:
    run = make_gan(tmp_path / "run")
    (run / "config.json").write_text("{")
    page = Page(report_files.render_report([run]))
    assert "config.json is damaged" in page.text and "Grid of images generated at step 60" in pictures(page)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n rubbish", "cut"])
def test_unreadable_images_are_reported_and_the_newest_readable_one_is_shown(tmp_path: Path, data: bytes | str) -> None:
    run = make_gan(tmp_path / "run")
    for name in ("samples_0000060.png", "reconstructions_0000060.png", "animation.webp"):
        path = run / "samples" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if data == "cut" else data)
    page = Page(report_files.render_report([run]))
    assert "samples/samples_0000060.png cannot be read" in page.text
    assert "samples/animation.webp cannot be read" in page.text
    assert pictures(page)[0] == "Grid of images generated at step 40"
    assert "and their reconstructions at step 40" in pictures(page)[-1]


def test_a_large_animation_is_not_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_ANIMATION", 100)
    html = report_files.render_report([make_gan(tmp_path / "run")])
    assert "The animation of all grids is too large for this page" in Page(html).text and "image/webp" not in html


def test_a_conditional_grid_names_the_class_of_each_row(tmp_path: Path) -> None:
    run = make_gan(tmp_path / "run", (*HOSTILE[:2], "b"), conditional=True)
    html = report_files.render_report([run])
    page = Page(html)
    assert "GAN · conditional, all classes (3) · 64 px" in page.text and "one class per row" in page.text
    items = [text for text in page.texts if text in (*HOSTILE[:2], "b")]
    assert items[:3] == [*HOSTILE[:2], "b"]
    assert dict(page.table("About the data"))["Trained on"].startswith("36 training images, conditional")
    draw(run, "samples", 80, np.random.default_rng(0), (64, 16, 16, 3), 8)
    assert "one class per row" not in Page(report_files.render_report([run])).text


def test_hostile_names_come_out_literally(tmp_path: Path) -> None:
    run = make_gan(tmp_path / "<img src=x onerror=y> $z^{", HOSTILE)
    html = report_files.render_report([run, make_gan(tmp_path / "$q_{", HOSTILE)])
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert f"class “{HOSTILE[0]}”" in page.text
    assert "Images generated by <img src=x onerror=y> $z^{ at step 60" in pictures(page)


def test_gans_are_compared(run: Path, tmp_path: Path) -> None:
    other = make_gan(tmp_path / "b", diversity=0.25, logit_fake=None)
    config = files.read_json(other / "config.json")
    config["model"]["gate"] = "sle"
    config["gan"] |= {"perceptual": "lite0", "label": "polyp"}
    files.write_json(other / "config.json", config)
    (other / "samples" / "samples_0000060.png").unlink()
    html = report_files.render_report([run, other])
    page = Page(html)
    assert pictures(page)[:2] == ["Images generated by a at step 60", "Images generated by b at step 40"]
    head, *rows = page.table("Latest metrics")
    at = head.index("Diversity (real: 1)")
    assert [[*row[:2], row[at]] for row in rows] == [["a", "60", "0.800"], ["b", "60", "0.250"]]
    assert "These numbers do not rank GANs" in page.text and "computed with different networks" in page.text
    assert "trained to generate different classes" in page.text and "its best checkpoint" not in page.text
    differing = {row[0] for row in page.table("Fields that differ between the runs")}
    assert differing == {"Field", "model.gate", "gan.perceptual", "gan.label"}
    curves = links(html)["comparison_learning_curves.csv"]
    assert {(row[0], row[1]) for row in curves if row[1] == "logit_fake"} == {("a", "logit_fake")}
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))


def test_runs_of_different_kinds_compare_nothing_but_their_configuration(run: Path, tmp_path: Path) -> None:
    classifier = make_run(tmp_path / "classifier")
    page = Page(report_files.render_report([run, classifier]))
    assert "so only their configurations are compared. Generators: a; classifiers: classifier." in page.text
    assert any(row[0] == "trainer" for row in page.table("Fields that differ between the runs"))
    assert "Grid of images generated at step 60" in pictures(page) and page.table("Results per class, test split")
    assert report_files.write_report([run, classifier], tmp_path / "page.html").is_file()


def test_a_gan_without_logs_can_be_compared(run: Path, tmp_path: Path) -> None:
    files.write_json(tmp_path / "new" / "config.json", {"trainer": "gan"})
    page = Page(report_files.render_report([tmp_path / "new", run]))
    assert page.table("Latest metrics")[1][:3] == ["new", "0", "–"]
    assert "There is no grid of this run yet." in page.text and "trained for different numbers of steps" in page.text


def test_groups_of_several_runs_are_drawn_metric_by_metric(run: Path) -> None:
    read = run_directory.read("a", run)
    alone, both = (panels.grouped_panels(runs, gan_view.GROUPS, "x-") for runs in ([read], [read, read]))
    assert len(alone) == len(gan_view.GROUPS) and all(panel["keys"] for panel in alone)
    assert len(both) == sum(len(group.metrics) for group in gan_view.GROUPS)
    assert panels.grouped_panels([read], [panels.Group("none", "", {("train", "no such"): "x"})], "x-") == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_opens_offline_without_complaint_and_every_picture_is_seen(run: Path, tmp_path: Path) -> None:
    page = report_files.write_report([run, make_gan(tmp_path / "b", HOSTILE, conditional=True)], tmp_path / "page.html")
    browser = Browser()
    try:
        for width, colours in ((360, "dark"), (1400, "light")):
            browser.open(page, width=width, colours=colours)
            assert browser.complaints == []
            assert all(address.startswith(("file:", "data:")) for address in browser.requests)
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.evaluate("document.images.length") == 14
            assert browser.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
            # The name of a class is at the height of its row of images.
            sides = "(one) => [one.getBoundingClientRect().top, one.getBoundingClientRect().height]"
            names = browser.evaluate(f"[...document.querySelectorAll('.rows li')].map({sides})")
            top, height = browser.evaluate(f"[...document.querySelectorAll('.rows img')].map({sides})[1]")
            assert names == [pytest.approx([top + height / 3 * at, height / 3], abs=1) for at in range(3)]
    finally:
        browser.close()
