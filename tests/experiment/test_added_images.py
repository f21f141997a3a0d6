"""Lists of the images that arms add."""

import numpy as np
from PIL import Image

from dim_jax.data import images
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.experiment import added_images
from dim_jax.experiment.arms import BALANCED, Arm
from dim_jax.runs import files


def prepared(tmp_path, counts):
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        for number in range(count):
            path = tmp_path / "slides" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return open_dataset(prepare_dataset(tmp_path / "slides", tmp_path / "data", image_size=16, split="kfold", folds=3))


def test_shrunk_copies_are_the_sharp_ones_at_the_size_of_generated_images(tmp_path):
    dataset = prepared(tmp_path, {"common": 12, "rare": 6})
    copies = added_images.choose_copies({"rare": 7}, dataset, seed=3)
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


def test_how_many_images_of_each_class_an_arm_adds(tmp_path):
    dataset = prepared(tmp_path, {"common": 60, "rare": 24, "rarer": 12})
    counts = dict(zip(dataset.classes, added_images.training_counts(dataset).tolist(), strict=True))

    def most(**amount):
        return added_images.most_per_class(dataset, ["rarer", "rare"], Arm("a", "a", added="gcgan", **amount))

    assert most(count=15) == {"rarer": 8, "rare": 8}
    assert most(share=0.25) == {name: round(counts[name] / 4) for name in ("rarer", "rare")}
    assert {name: counts[name] + number for name, number in most(count=BALANCED).items()} == dict.fromkeys(
        ("rarer", "rare"), counts["common"]
    )


def test_a_share_of_each_class_takes_the_first_selected_images(tmp_path):
    dataset = prepared(tmp_path, {"common": 24, "rare": 12})
    entries = [{"path": f"{label}{number}.png", "label": label} for number in range(4) for label in ("b", "rare")]
    files.write_json(tmp_path / "selected.json", {"images": entries, "image_size": 64, "resize": "crop"})
    added_images.write_first(tmp_path / "share.json", tmp_path / "selected.json", {"rare": 3}, dataset)
    record = files.read_json(tmp_path / "share.json")
    assert [entry["path"] for entry in record["images"]] == ["rare0.png", "rare1.png", "rare2.png"]
    assert (record["image_size"], record["resize"]) == (64, "crop")
