"""Lists of the images that arms add."""

import numpy as np
from PIL import Image

from dim_jax.data import images
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.experiment import added_images
from dim_jax.runs import files


def test_shrunk_copies_are_the_sharp_ones_at_the_size_of_generated_images(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in {"common": 12, "rare": 6}.items():
        for number in range(count):
            path = tmp_path / "slides" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    folder = prepare_dataset(tmp_path / "slides", tmp_path / "data", image_size=16, split="kfold", folds=3)
    dataset = open_dataset(folder)
    copies = added_images.choose_copies(["rare"], 7, dataset, seed=3)
    sharp, shrunk = tmp_path / "copies.json", tmp_path / "shrunk_copies.json"
    added_images.write_list(sharp, copies, dataset)
    added_images.write_shrunk_copies(shrunk, copies, dataset, image_size=8, resize="crop")

    record = files.read_json(shrunk)
    assert (record["image_size"], record["resize"]) == (8, "crop")
    pairs = list(zip(files.read_json(sharp)["images"], record["images"], strict=True))
    assert len(pairs) == 7 and len({first["path"] for first, _ in pairs}) < 7  # some are used twice
    for first, second in pairs:
        assert first["label"] == second["label"] == "rare"
        expected = images.read_square(tmp_path / first["path"], 8, "crop")
        np.testing.assert_array_equal(images.read_image(tmp_path / second["path"]), expected)
    training = {dataset.file(int(row)).resolve() for row in dataset.rows("train")}
    assert {(tmp_path / first["path"]).resolve() for first, _ in pairs} <= training
