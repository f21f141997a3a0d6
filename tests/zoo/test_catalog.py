"""The trained models that come with the package: whole, small, attributed, and giving the answers that were stored."""

import json

import numpy as np
import pytest

import dim_jax
from dim_jax import predict
from dim_jax.cli import command_line
from dim_jax.data import phantom
from dim_jax.runs import files
from dim_jax.zoo import catalog

MOST_BYTES = 25e6
ANSWERS = catalog.PLACE / "answers.json"


def test_the_index_is_that_of_the_folders():
    assert json.loads(json.dumps(catalog.make_index())) == catalog.models()


def test_all_together_are_small_and_hold_no_images():
    paths = [path for path in catalog.PLACE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in paths) < MOST_BYTES
    assert {path.suffix for path in paths} <= {".py", ".json", ".safetensors", ".npz", ".md"}


@pytest.mark.parametrize("name", catalog.models())
def test_every_model_names_its_data_licence_date_and_commit(name):
    entry = catalog.models()[name]
    assert all(entry[field] for field in ("kind", "network", "classes", "data", "licence", "trained", "commit"))
    if entry["kind"] == "classifier":
        scores = [*entry["scores"]["plain"].values(), *entry["scores"]["adjusted"].values()]
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores)
    assert "research only" in catalog.notice(name)


@pytest.mark.parametrize("name", catalog.models())
def test_every_model_gives_the_stored_answers(name):
    """Probabilities of phantom images, without views; or mean colours of generated images."""
    if catalog.models()[name]["kind"] == "gan":
        computed = dim_jax.load(f"zoo:{name}").generate(range(4)).mean((1, 2)) / 255
    else:
        images = [phantom.draw(image, 96) for image in phantom.plan(0.03)[::20]]
        computed = dim_jax.load(f"zoo:{name}", views=False).predict(images).probabilities
    np.testing.assert_allclose(computed, files.read_object(ANSWERS)[name], atol=2e-3)


def test_unknown_names_and_damaged_files_are_one_line(tmp_path, capsys, monkeypatch):
    assert command_line.run(predict.main, [str(tmp_path), "--model=ebhi-seq", f"--out={tmp_path / 'out'}"]) == 2
    assert "did you mean ebhi-seg?" in capsys.readouterr().err
    index = catalog.models()
    index["ebhi-seg"]["files"]["weights.safetensors"] = "0" * 64
    files.write_json(tmp_path / "index.json", index)
    monkeypatch.setattr(catalog, "models", lambda: files.read_object(tmp_path / "index.json"))
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing or not the one of this version"):
        catalog.folder("ebhi-seg")
