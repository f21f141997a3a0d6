"""The audit of a generator in training: copies fail it, new images pass, and too few images are refused."""

import numpy as np
import pytest

from dim_jax.data import phantom
from dim_jax.data.dataset import open_dataset
from dim_jax.data.images import read_image
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan.copying_audit import LEAST_C_T, CopyingAudit
from dim_jax.weights import pretrained

LABEL, RARE, SIDE = "low_grade_in", "normal", 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "data"
    return open_dataset(prepare_dataset("phantom", folder, image_size=SIDE, scale=0.06))


@pytest.fixture(autouse=True)
def quarters(monkeypatch):
    """In place of the frozen network: mean colours of quarters."""

    def features(pixels):
        return pixels.reshape(len(pixels), 2, SIDE // 2, 2, SIDE // 2, 3).mean((2, 4)).reshape(len(pixels), -1)

    monkeypatch.setattr(pretrained, "lite_path", lambda network: None)
    monkeypatch.setattr(pretrained, "pixel_features", lambda network: features)


class Generator:
    """In place of a synthesizer: the images of a class one after another."""

    def __init__(self, images):
        self.of_label = images

    def images(self, seeds, label):
        pixels = self.of_label[label]
        return np.stack([pixels[seed % len(pixels)] for seed in seeds])


def real(data, split, label):
    return [read_image(data.file(int(row))) for row in data.rows(split) if data.labels[row] == label]


def test_copies_of_training_images_fail_and_other_images_of_the_class_pass(data):
    label = data.classes.index(LABEL)
    audit = CopyingAudit(data, [label], SIDE, "squash", 32)
    new = [phantom.draw(phantom.PhantomImage(LABEL, f"new{seed}", seed), SIDE, seed=77) for seed in range(32)]
    copies = real(data, "train", label)
    assert audit(Generator({label: copies})) < LEAST_C_T <= audit(Generator({label: new}))
    assert audit(Generator({label: real(data, "val", label)})) == pytest.approx(0, abs=0.5)


def test_one_class_of_copies_is_enough_to_fail(data):
    labels = [index for index, name in enumerate(data.classes) if name != RARE]
    audit = CopyingAudit(data, range(len(data.classes)), SIDE, "squash", 32)
    assert audit.labels == [label for label in labels if label in audit.labels] and len(audit.labels) >= 2
    images = {label: real(data, "val", label) for label in audit.labels}
    assert audit(Generator(images)) > LEAST_C_T
    images[audit.labels[-1]] = real(data, "train", audit.labels[-1])
    assert audit(Generator(images)) < LEAST_C_T


def test_classes_of_few_validation_images_are_left_out_and_alone_refused(data):
    rare = data.classes.index(RARE)
    assert len(real(data, "val", rare)) < 5
    with pytest.raises(ValueError, match=r"no class to learn has 5 validation images.*audit_images=0"):
        CopyingAudit(data, [rare], SIDE, "squash", 32)
