"""Distances of fields from the training images: small for more of the same, large for other stains and scales."""

import json

import numpy as np
import pytest
from PIL import Image

from dim_jax.data import field_statistics, phantom


def fields(first_case, size=96):
    """Twenty fields of twenty cases of the phantom."""
    images = [phantom.PhantomImage("polyp", f"case{first_case + number:04d}", 1) for number in range(20)]
    return np.stack([phantom.draw(image, size) for image in images])


@pytest.fixture(scope="module")
def trained_on():
    return np.concatenate([fields(100 * part) for part in range(1, 5)])


@pytest.fixture(scope="module")
def usual(trained_on):
    return field_statistics.fit(field_statistics.describe(trained_on))


def unusual_share(usual, images):
    return (usual.distances(field_statistics.describe(images)) > usual.limit).mean()


def test_new_cases_are_usual(usual):
    assert unusual_share(usual, fields(900)) <= 0.1


@pytest.mark.parametrize("change", [
    lambda image: image[..., ::-1],  # blue and red exchanged
    lambda image: np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8),  # grey
    lambda image: np.asarray(Image.fromarray(image[:24, :24]).resize((96, 96), Image.Resampling.BILINEAR)),  # magnified
    lambda image: 255 - image,
], ids=["channels exchanged", "grey", "four times the magnification", "inverted"])  # fmt: skip
def test_other_colours_and_another_magnification_are_not(usual, change):
    assert unusual_share(usual, np.stack([change(image) for image in fields(900)])) >= 0.9


def test_the_reason_names_colours_or_detail(usual):
    image = fields(900)[0]
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    assert "colours" in usual.explain(field_statistics.describe(grey[None])[0])
    magnified = np.asarray(Image.fromarray(image[:24, :24]).resize((96, 96), Image.Resampling.BILINEAR))
    assert "detail" in usual.explain(field_statistics.describe(magnified[None])[0])
    assert not usual.explain(usual.mean)


def test_the_mean_of_squared_distances_is_the_number_of_descriptors_without_shrinkage():
    """The identity of Mahalanobis distances: the mean square over the sample is the trace of the identity."""
    descriptors = np.random.default_rng(0).standard_normal((5000, 9)) @ np.diag(np.arange(1, 10))
    distances = field_statistics.fit(descriptors).distances(descriptors)
    assert (distances**2).mean() == pytest.approx(9, rel=0.02)


def test_statistics_survive_json_and_others_are_refused(usual, trained_on):
    again = field_statistics.from_json(json.loads(json.dumps(usual.to_json())))
    descriptors = field_statistics.describe(trained_on[:3])
    np.testing.assert_allclose(again.distances(descriptors), usual.distances(descriptors), rtol=1e-12)
    for broken in (None, [], {}, usual.to_json() | {"names": ["x"]}, usual.to_json() | {"covariance": [[0.0] * 9] * 9}):
        assert field_statistics.from_json(broken) is None


def test_images_of_one_colour_have_finite_descriptors(usual):
    assert np.isfinite(usual.distances(field_statistics.describe(np.zeros((2, 9, 9, 3), np.uint8)))).all()
