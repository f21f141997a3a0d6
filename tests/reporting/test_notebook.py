"""Execution of the notebook on metrics of tiny runs, written by the writers of a run."""

import base64
import os
from pathlib import Path

import pytest

from dim_jax.runs import workdir
from dim_jax.training.writers import MetricWriter

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "loss_curves.ipynb"


def make_run(folder, loss, seed):
    """Writes the metrics of two epochs of training, in the format of a run."""
    config = {"trainer": "classifier", "seed": seed, "loss": {"name": loss, "m": 4.0}, "train": {"num_epochs": 2.0}}
    folder.mkdir(parents=True)
    workdir.write_start(folder, config, ["cpu:0"])
    writer = MetricWriter(folder, 0, tensorboard=False)
    for step in range(1, 9):
        epoch, value = step / 4, (step + seed) / 20
        writer.write(step, "train", {"epoch": epoch, "loss": 1 - value, "seconds": 0.5, "seconds_per_step": None})
        if step % 4 == 0:
            scores = dict.fromkeys(("macro_f1", "g_mean", "balanced_accuracy", "accuracy"), value)
            losses = {"loss": 1 - value, "cross_entropy": 1.5 - value}
            writer.write(step, "val", {"epoch": epoch, **losses, **scores, "seconds": 0.25})
            writer.write(step, "checkpoint", {"epoch": epoch, "seconds": 0.125})
    writer.close()
    return str(folder)


def parameters(notebook):
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / f"{loss}{seed}", loss, seed) for loss, seed in (("fafl", 0), ("fafl", 1), ("ce", 0))]
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = parameters(notebook)
    cell.source += f"\nRUNS = {runs!r}"
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute(env=environment)
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_it_runs_without_errors_or_warnings(executed):
    kinds = {output.get("name", output.output_type) for output in outputs(executed)}
    assert kinds <= {"stdout", "display_data", "execute_result"}


def test_it_draws_losses_and_metrics(executed):
    figures = [output.data["image/png"] for output in outputs(executed) if "image/png" in output.get("data", {})]
    assert len(figures) == 3
    assert all(base64.b64decode(figure).startswith(b"\x89PNG") for figure in figures)


def test_the_table_names_the_arms_and_a_note_says_that_a_single_seed_has_no_band(executed):
    text = "".join(output.text for output in outputs(executed) if output.output_type == "stream")
    assert "3 runs in 2 arms" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("loss.name=")]
    assert [row[:3] for row in rows] == [
        ["loss.name=fafl", "0", "fafl0"],
        ["loss.name=fafl", "1", "fafl1"],
        ["loss.name=ce", "0", "ce0"],
    ]
    assert rows[0][3:] == ["8", "0.400", "2.0", "0.400"]
    notes = [line for line in text.splitlines() if "no band" in line]
    assert notes == ["There is no band for loss.name=ce: it has only one seed."]


def test_the_notebook_is_committed_without_outputs_and_reads_the_folder_runs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook) and all(cell.get("execution_count") is None for cell in notebook.cells)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first is parameters(notebook) and "RUNS = " in first.source and "../runs" in first.source
