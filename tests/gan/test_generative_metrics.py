"""Metrics of generated images: closed-form values, slow reference implementations, and calibrated intervals."""

import json

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.gan import generative_metrics as metrics
from dim_jax.gan import inception_scores

sizes = st.integers(11, 24)
seeds = st.integers(0, 2**31 - 1)


def features(number, dimensions=3, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((number, dimensions)) + shift


def slow_kernel_distance(real, generated, groups=None):
    groups = range(len(real)) if groups is None else groups

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    within = [kernel(real[i], real[j]) for i in range(len(real)) for j in range(len(real)) if groups[i] != groups[j]]
    others = [kernel(x, y) for i, x in enumerate(generated) for j, y in enumerate(generated) if i != j]
    mixed = [kernel(x, y) for x in real for y in generated]
    return np.mean(within) + np.mean(others) - 2 * np.mean(mixed)


def slow_frechet(real, generated):
    first, second = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return ((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)


def slow_balls(points, neighbours):
    return [sorted(np.linalg.norm(points - point, axis=1))[neighbours] for point in points]


def slow_share_inside(points, centres, neighbours):
    radii = slow_balls(centres, neighbours)
    inside = [
        any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(centres, radii, strict=True))
        for point in points
    ]
    return np.mean(inside)


@settings(max_examples=15)
@given(sizes, sizes, seeds, st.floats(0, 2))
def test_all_metrics_agree_with_slow_reference_implementations(n, m, seed, shift):
    real, generated = features(n, seed=seed), features(m, seed=seed + 1, shift=shift)
    assert metrics.kernel_distance(real, generated)[0] == pytest.approx(slow_kernel_distance(real, generated))
    groups = np.arange(n) // 3
    grouped = metrics.kernel_distance(real, generated, [f"case {group}" for group in groups])[0]
    assert grouped == pytest.approx(slow_kernel_distance(real, generated, groups))
    assert metrics.frechet_distance(real, generated) == pytest.approx(slow_frechet(real, generated), abs=1e-9)
    precision, recall = metrics.precision_recall(real, generated)
    assert precision == pytest.approx(slow_share_inside(generated, real, 3))
    assert recall == pytest.approx(slow_share_inside(real, generated, 3))
    density, coverage = metrics.density_coverage(real, generated)
    radii = slow_balls(real, 5)
    inside = np.array([[np.linalg.norm(x - y) <= radius for x, radius in zip(real, radii, strict=True)]
                       for y in generated])  # fmt: skip
    assert density == pytest.approx(inside.sum() / (5 * m))
    assert coverage == pytest.approx(inside.any(0).mean())


def test_the_kernel_distance_of_a_case_computed_by_hand():
    # k(x, y) = (xy + 1)^3 in one dimension: 1 within {0, 1}, 8 within {1, 1}, and 1 or 8 between them.
    real, generated = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])
    assert metrics.kernel_distance(real, generated)[0] == pytest.approx(1 + 8 - 2 * (1 + 8) / 2)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average_and_its_error_is_not_too_small():
    estimates = [metrics.kernel_distance(features(20, 4, seed), features(30, 4, 1000 + seed)) for seed in range(400)]
    values, errors = np.array(estimates).T
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    # Here the jackknife overestimates the error, by less than 60 %.
    assert values.std() < np.sqrt((errors**2).mean()) < 1.6 * values.std()


def test_the_error_of_the_kernel_distance_is_its_spread_over_repetitions_where_distributions_differ():
    estimates = [
        metrics.kernel_distance(features(40, 4, seed), features(40, 4, 1000 + seed, shift=0.7)) for seed in range(300)
    ]
    values, errors = np.array(estimates).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.2)


def test_correlated_images_of_a_case_do_not_bias_the_kernel_distance():
    """Real images in tight clusters, generated ones of the same distribution: ignoring the cases gives a large bias."""
    plain, grouped = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(6), 5)
        real = 2 * rng.standard_normal((6, 4))[groups] + 0.1 * rng.standard_normal((30, 4))
        generated = 2 * rng.standard_normal((30, 4)) + 0.1 * rng.standard_normal((30, 4))
        plain.append(metrics.kernel_distance(real, generated)[0])
        grouped.append(metrics.kernel_distance(real, generated, groups)[0])
    error = np.std(grouped) / np.sqrt(len(grouped))
    assert abs(np.mean(grouped)) < 3 * error < np.mean(plain)


def with_moments(number, mean, covariance):
    """Points whose sample mean and covariance are exactly these."""
    points = features(number, len(mean), seed=5)
    points -= points.mean(0)
    white = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_the_frechet_distance_of_gaussians_with_a_closed_form():
    a, b = with_moments(30, [1.0, 2.0], np.diag([4.0, 9.0])), with_moments(25, [0.0, 0.0], np.diag([1.0, 25.0]))
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 5) ** 2)
    # Rotated: covariances that are not diagonal.
    rotation = np.linalg.qr(features(2, 2, 9))[0]
    assert metrics.frechet_distance(a @ rotation, b @ rotation) == pytest.approx(10)


def test_the_frechet_distance_is_defined_for_fewer_images_than_features():
    """The value in the full space equals that in any subspace that contains the images."""
    real, generated = features(12, 3), features(9, 3, 1, shift=1.0)
    lift = np.linalg.qr(features(200, 3, 2))[0].T
    value = metrics.frechet_distance(real, generated)
    assert metrics.frechet_distance(real @ lift, generated @ lift) == pytest.approx(value)
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-12)
    assert metrics.frechet_distance(np.ones((5, 3)), np.ones((4, 3))) == 0


def test_a_set_against_itself_has_perfect_metrics():
    points = features(30, 5)
    assert metrics.precision_recall(points, points) == (1, 1)
    density, coverage = metrics.density_coverage(points, points)
    # Each real ball contains its centre and five neighbours.
    assert density == pytest.approx(6 / 5) and coverage == 1


def test_distant_images_have_no_precision_or_coverage_and_a_single_mode_has_low_recall():
    real = np.concatenate([features(20), features(20, seed=1, shift=50)])
    assert metrics.precision_recall(real, features(20, seed=2, shift=-50)) == (0, 0)
    assert metrics.density_coverage(real, features(20, seed=2, shift=-50)) == (0, 0)
    precision, recall = metrics.precision_recall(real, features(20, seed=3))
    assert precision > 0.7 and recall <= 0.5
    # Roles exchanged, precision is recall.
    assert metrics.precision_recall(features(20, seed=3), real) == (recall, precision)


@settings(max_examples=5)
@given(seeds)
def test_order_and_rotation_do_not_matter(seed):
    real, generated = features(22, 4, seed), features(14, 4, seed + 1, shift=0.5)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    for changed in (
        (rng.permutation(real), rng.permutation(generated)),
        (real @ rotation, generated @ rotation),
    ):
        assert metrics.kernel_distance(*changed) == pytest.approx(metrics.kernel_distance(real, generated))
        assert metrics.frechet_distance(*changed) == pytest.approx(metrics.frechet_distance(real, generated))
        assert metrics.precision_recall(*changed) == pytest.approx(metrics.precision_recall(real, generated))
        assert metrics.density_coverage(*changed) == pytest.approx(metrics.density_coverage(real, generated))


def test_a_comparison_has_all_entries_and_is_deterministic():
    real, generated = features(40, 6), features(25, 6, 1, shift=0.3)
    groups = [f"case {number // 2}" for number in range(40)]
    comparison = metrics.compare(real, generated, groups=groups, seed=3, space="test space")
    assert comparison == metrics.compare(real, generated, groups=groups, seed=3, space="test space")
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison
    assert (comparison["space"], comparison["num_real"], comparison["num_groups"], comparison["num_generated"]) == (
        "test space",
        40,
        20,
        25,
    )
    assert tuple(comparison["metrics"]) == metrics.METRICS and not any("fid" in name for name in comparison["metrics"])
    assert comparison["metrics"]["kernel_distance"]["standard_error"] > 0
    for name, entry in comparison["metrics"].items():
        low, high = entry["interval"]
        assert low <= entry["value"] <= high and low < high, name
        assert np.isfinite([*entry["same_size"].values()][:2]).all()
    assert comparison["same_size_images"] == 20 and comparison["notes"] == []


def test_generated_images_of_the_real_distribution_equal_the_baseline_at_the_same_size():
    """The raw value, for another number of images, does not."""
    real, generated = features(60, 30), features(200, 30, 1)
    comparison = metrics.compare(real, generated)["metrics"]["frechet_distance"]
    low, high = comparison["same_size"]["real_interval"]
    assert low <= comparison["same_size"]["generated"] <= high
    assert comparison["value"] < 0.8 * comparison["same_size"]["real_vs_real"]
    worse = metrics.compare(real, generated + 1)["metrics"]
    for name in ("kernel_distance", "frechet_distance"):
        assert worse[name]["same_size"]["generated"] > worse[name]["same_size"]["real_interval"][1]
    for name in ("precision", "recall", "coverage"):
        assert worse[name]["same_size"]["generated"] < worse[name]["same_size"]["real_interval"][0]


def test_the_coverage_of_the_interval_is_about_its_level():
    """For the kernel distance of equal distributions, whose true value is zero."""
    covered = 0
    for seed in range(60):
        entry = metrics.compare(features(20, 3, seed), features(20, 3, 500 + seed))["metrics"]["kernel_distance"]
        covered += entry["interval"][0] <= 0 <= entry["interval"][1]
    assert covered >= 50


def test_few_images_are_refused_or_noted():
    with pytest.raises(ValueError, match=r"9 generated images are too few .* 10 are needed"):
        metrics.compare(features(30), features(9))
    with pytest.raises(ValueError, match="9 real images"):
        metrics.compare(features(9), features(30))
    with pytest.raises(ValueError, match=r"3 real images .* 4 are needed"):
        metrics.precision_recall(features(3), features(30))
    with pytest.raises(ValueError, match="6 are needed"):
        metrics.density_coverage(features(5), features(30))
    comparison = metrics.compare(features(15, 40), features(12, 40))
    assert comparison["same_size_images"] is None and comparison["metrics"]["recall"]["same_size"] is None
    assert "not reliable" in comparison["notes"][0] and "15 real images" in comparison["notes"][1]


@pytest.mark.parametrize("real, generated, message", [
    (features(12, 3), features(12, 4), "do not fit"),
    (features(12), np.full((12, 3), np.nan), "generated images are not all finite"),
    (features(12)[:, 0], features(12)[:, 0], "do not fit"),
])  # fmt: skip
def test_features_that_do_not_fit_or_are_not_finite_are_refused(real, generated, message):
    with pytest.raises(ValueError, match=message):
        metrics.compare(real, generated)
    with pytest.raises(ValueError, match="2 groups do not fit 12"):
        metrics.compare(features(12), features(12), groups=["a", "b"])


# The inception score.


def test_the_inception_score_is_one_for_equal_predictions_and_the_number_of_classes_for_certain_ones():
    assert inception_scores.inception_score(np.tile(features(1, 9), (20, 1))) == pytest.approx(1, abs=1e-12)
    # Logits so far apart that the probabilities of the other classes are 0.
    assert inception_scores.inception_score(np.tile(1e4 * np.eye(7), (3, 1))) == pytest.approx(7)


@settings(max_examples=15)
@given(st.integers(1, 20), seeds)
def test_the_inception_score_is_the_formula_of_the_paper_and_does_not_depend_on_the_order(n, seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((n, 6))
    probabilities = scipy.special.softmax(logits, 1)
    divergences = [scipy.stats.entropy(row, probabilities.mean(0)) for row in probabilities]
    value = inception_scores.inception_score(logits)
    assert value == pytest.approx(np.exp(np.mean(divergences)))
    assert 1 <= value <= min(n, 6) + 1e-9
    changed = rng.permutation(logits)[:, rng.permutation(6)] + rng.standard_normal((n, 1))
    assert inception_scores.inception_score(changed) == pytest.approx(value)


def test_inception_scores_have_intervals_and_a_baseline_of_real_images():
    real, generated = 4 * features(60, 8), 4 * features(25, 8, 1)
    groups = [f"case {number // 2}" for number in range(60)]
    scores = inception_scores.inception_scores(real, generated, groups=groups)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores == inception_scores.inception_scores(real, generated, groups=groups)
    for name, logits in (("real", real), ("generated", generated)):
        assert scores[name]["value"] == inception_scores.inception_score(logits)
        low, high = scores[name]["interval"]
        assert 1 <= low < scores[name]["value"] < high < 8
    low, high = scores["same_size"]["real_interval"]
    # 25 images of either: equal distributions, and less than all 60 give.
    assert low <= scores["same_size"]["generated"] <= high
    assert scores["same_size"]["real"] < scores["real"]["value"]
    assert inception_scores.inception_scores(real[:15], generated)["same_size"] is None
    with pytest.raises(ValueError, match="10 are needed"):
        inception_scores.inception_scores(real, generated[:9])


def test_at_equal_sizes_a_real_half_covers_the_other_and_a_shifted_set_loses_precision_only():
    real = features(120, seed=0)
    same, shifted = (metrics.at_equal_sizes(real, features(80, seed=1, shift=shift)) for shift in (0.0, 6.0))
    assert same["images"] == 60
    for name in ("precision", "recall", "coverage"):
        assert same[name]["real_vs_real"] > 0.75 and same[name]["generated"] > 0.75
    assert shifted["precision"]["generated"] < 0.05 and shifted["recall"]["real_vs_real"] > 0.75
    assert shifted["offset"]["generated"] > 3 > 0.5 > same["offset"]["generated"]
    assert shifted["spread"]["generated"] == pytest.approx(same["spread"]["generated"])


def test_spread_and_offset_are_in_units_of_the_real_spread():
    real = features(50, seed=0)
    spread, offset = metrics.spread_and_offset(real, 10 + 0.5 * (real - real.mean(0)) + real.mean(0))
    rms = np.sqrt(real.var(0).sum())
    assert (spread, offset) == (pytest.approx(0.5), pytest.approx(10 * np.sqrt(3) / rms))
    with pytest.raises(ValueError, match="all equal"):
        metrics.spread_and_offset(np.ones((5, 2)), real[:, :2])


def test_real_images_that_cannot_be_halved_are_refused_at_equal_sizes():
    with pytest.raises(ValueError, match="do not give two halves"):
        metrics.at_equal_sizes(features(15), features(15))
