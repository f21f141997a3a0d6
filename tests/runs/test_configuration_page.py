"""docs/configuration.md is generated from the schema and the bundled configurations."""

from pathlib import Path

from dim_jax.runs import configuration_page


def test_the_page_is_current():
    """If this fails: python -m dim_jax.runs.configuration_page > docs/configuration.md"""
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configuration_page.page()
