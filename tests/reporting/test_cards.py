"""Cards: front matter that YAML reads, Markdown that names cannot change, and nothing that is not recorded."""

import json
import re
from html import unescape

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_runs import CLASSES, HOSTILE, make_run

from dim_jax import report
from dim_jax.cli import command_line
from dim_jax.data import licences
from dim_jax.reporting import cards, run_cards, run_directory
from dim_jax.runs import files

MARKDOWN = MarkdownIt("commonmark").enable("table")


def front_matter(text):
    """The YAML at the start of a card, and the Markdown after it."""
    _, block, body = text.split("---\n", 2)
    return yaml.safe_load(block), body


def test_the_card_of_a_run_has_the_recorded_scores_and_the_same_as_json(tmp_path):
    run = make_run(tmp_path / "run")
    path = run_cards.write_run_card(run)
    metadata, body = front_matter(path.read_text())
    recorded = files.read_json(run / "eval" / "test" / "metrics.json")
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert {entry["type"]: entry["value"] for entry in result["metrics"]}["macro_f1"] == recorded["macro_f1"]
    assert metadata["license"] == "unknown" and "licence of the data | not recorded" in body
    facts = files.read_json(run / "card.json")
    assert facts["metadata"] == metadata
    rows = facts["sections"]["Scores"]["tables"]["Per class"]
    assert [row["class"] for row in rows if row["split"] == "test"] == list(CLASSES)
    assert [row["recall"] for row in rows if row["split"] == "test"] == [row["recall"] for row in recorded["per_class"]]
    assert re.search(r"Fewer than 10 test images: normal \(\d\)", body)
    assert facts["sha256"]["config.json"] == cards.sha256_of(run, ["config.json"])["config.json"]


def test_a_card_is_a_function_of_the_files(tmp_path):
    run = make_run(tmp_path / "run")
    before = run_cards.write_run_card(run).read_bytes(), (run / "card.json").read_bytes()
    assert command_line.run(report.main, ["--card", str(run)]) == 0
    assert ((run / "card.md").read_bytes(), (run / "card.json").read_bytes()) == before


def test_hostile_names_stay_text_in_front_matter_and_in_markdown(tmp_path):
    run = make_run(tmp_path / "run ---\n#x: [", classes=HOSTILE)
    text = run_cards.write_run_card(run).read_text()
    metadata, body = front_matter(text)
    assert metadata["model_name"] == "run ---\\n#x: ["
    html = MARKDOWN.render(body)
    assert "<script" not in html and "<img" not in html and 'onload="' not in html.replace("&quot;", "")
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


@given(st.text(max_size=40))
def test_any_text_is_one_paragraph_with_the_same_characters(text):
    html = MARKDOWN.render(cards.markdown_text(text))
    expected = " ".join(command_line.printable(text).split())
    shown = re.fullmatch(r"<p>(.*)</p>\n", html) if expected else re.fullmatch(r"()", html)
    assert shown and unescape(shown[1]) == expected


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=3))
def test_any_name_and_tag_gives_front_matter_that_yaml_reads(name, tags):
    metadata = cards.metadata("pool", name, {}, tags)
    card = {
        "kind": "pool", "name": name, "summary": name, "metadata": metadata, "sections": {}, "limits": [],
        "commands": [name], "versions": {}, "sha256": {},
    }  # fmt: skip
    read, _ = front_matter(cards.render(card))
    assert read["pretty_name"] == command_line.printable(name)
    assert read["tags"][4:] == [command_line.printable(tag) for tag in metadata["tags"][4:]]


def test_a_file_that_is_no_card_is_kept(tmp_path, caplog):
    run = make_run(tmp_path / "run")
    (run / "card.md").write_text("mine")
    run_cards.write_run_card(run)
    assert (run / "card.md").read_text() == "mine" and not (run / "card.json").exists()
    assert "is not a card of dim_jax" in caplog.text


def test_an_unfinished_run_has_a_card_of_what_there_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"trainer": "classifier"}))
    text = run_cards.write_run_card(tmp_path).read_text()
    assert "There is no manifest.json" in text and "No split has been evaluated." in text


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("LICENSE", "\n  Creative Commons Attribution 4.0\nmore", "Creative Commons Attribution 4.0"),
        ("licence.txt", "CC0", "CC0"),
        ("README.md", "# Images\nLicense: CC BY-NC\n", "License: CC BY-NC"),
        ("README.md", "# Images\nunlicensed bars\n", None),
        ("licensed_images.csv", "path,label\n", None),
    ],
)
def test_the_licence_is_what_the_folder_says(tmp_path, name, content, text):
    (tmp_path / name).write_text(content)
    record = licences.find_licence(tmp_path)
    assert (record and record["text"]) == text


def test_a_recorded_licence_is_in_the_card(tmp_path):
    run = make_run(tmp_path / "run")
    licence = {"file": "LICENSE", "text": "CC BY 4.0", "sha256": "ab" * 32}
    files.write_json(run / "data_report.json", {"warnings": [], "licence": licence})
    card = run_cards.run_card(run_directory.read("run", run))
    assert card["metadata"]["license_name"] == "CC BY 4.0"
    assert card["sections"]["Data and licence"]["facts"]["licence of the data"].startswith("CC BY 4.0 (LICENSE")


@pytest.mark.parametrize(
    ("files_of", "message"),
    [
        ({}, "is not a run directory"),
        ({"config.json": {"trainer": "experiment"}}, "give its runs"),
        ({"selected.json": {"classes": {}}}, "is damaged"),
        ({"pool.json": {}}, "has format None"),
    ],
)
def test_a_folder_without_a_card_is_refused(tmp_path, capsys, files_of, message):
    for name, content in files_of.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert command_line.run(report.main, ["--card", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "card.md").exists()
