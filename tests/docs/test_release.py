"""What a release says about itself: one version, a citation that can be read, and all files that it needs."""

import configparser
import re
from datetime import date
from pathlib import Path

import yaml

import dim_jax

ROOT = Path(__file__).parents[2]
# Required keys of CITATION.cff, version 1.2.0 of the format.
REQUIRED = {"cff-version", "message", "title", "authors"}


def test_version_and_date_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, released = re.search(
        r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    ).groups()
    assert version == dim_jax.__version__ == citation["version"]
    assert released == citation["date-released"] and date.fromisoformat(released)


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= REQUIRED and citation["cff-version"] == "1.2.0"
    for work in (citation, *citation["references"]):
        assert all(author.keys() & {"name", "family-names"} for author in work["authors"])
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()
    assert citation["license"] == _setup()["metadata"]["license"]


def test_every_package_and_template_is_in_the_distribution():
    packages = set(_setup()["options"]["packages"].split())
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("dim_jax/**/__init__.py")}
    assert folders == packages - {"dim_jax.configs"}


def _setup():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup
