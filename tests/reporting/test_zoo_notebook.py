"""Execution of the notebook from a trained model to a report, on little synthetic tissue."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "zoo_to_report.ipynb"


@pytest.mark.slow
def test_it_ends_with_a_report_and_scores(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "parameters" in first.metadata["tags"]
    first.source += f"\nOUT, SCALE, IMAGE_SIZE = Path({str(tmp_path)!r}), 0.03, 64"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    nbclient.NotebookClient(notebook, timeout=900).execute(env=environment)
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("plain: macro-F1" in text and "adjusted: macro-F1" in text for text in printed)
    assert "Confusion" in (tmp_path / "run" / "report.html").read_text()


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
