"""Image synthesis: an image depends on its seed only, not on the other images of a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.gan import synthesis
from dim_jax.models import make_gan


@pytest.fixture(scope="module")
def generator():
    return make_gan(64, 0, width=1 / 64, gate="gc", up="residual", context="context", tanh=True)[0]


@pytest.fixture(scope="module")
def variables(generator):
    key = jax.random.key(0)
    return jax.jit(generator.init, static_argnums=2)(key, jnp.zeros((1, 256)), True, None, jax.random.split(key, 1))


@pytest.fixture(scope="module")
def synthesizer(generator, variables):
    return synthesis.Synthesizer(generator, synthesis.recalibrate(generator, variables))


def test_an_image_has_the_same_bytes_alone_and_among_others(synthesizer):
    together = synthesizer.images(range(20))
    assert together.shape == (20, 64, 64, 3) and together.dtype == np.uint8
    for seeds in ([13], [19, 0, 7], [5, 5]):
        np.testing.assert_array_equal(synthesizer.images(seeds), together[seeds])
    assert len({image.tobytes() for image in together}) == 20
    assert synthesizer.images([]).shape == (0, 64, 64, 3)


def test_batch_statistics_are_those_of_the_seeds_group(generator, synthesizer):
    batch = synthesis.Synthesizer(generator, synthesizer.variables, "batch")
    np.testing.assert_array_equal(batch.images([3]), batch.images(range(8))[3:4])
    assert not np.array_equal(batch.images([3]), synthesizer.images([3]))


def test_truncation_reduces_the_variance_of_images(synthesizer):
    whole, half = (synthesizer.images(range(16), truncation=t).astype(float) for t in (1.0, 0.1))
    assert half.std(0).mean() < 0.5 * whole.std(0).mean()


@pytest.mark.parametrize(("seeds", "truncation"), [([-1], 1.0), ([2**31], 1.0), ([0], 0.0), ([0], float("nan"))])
def test_seeds_and_truncations_out_of_range_are_refused(synthesizer, seeds, truncation):
    with pytest.raises(ValueError, match=r"seeds|truncation"):
        synthesizer.images(seeds, truncation=truncation)


def test_recalibrated_statistics_are_those_of_generated_images(generator, variables, synthesizer):
    """Variances of all layers, against those of one large batch of other latents."""
    again = synthesis.recalibrate(generator, variables)
    jax.tree.map(np.testing.assert_array_equal, again, synthesizer.variables)
    empty = jax.tree.map(jnp.zeros_like, synthesizer.variables["batch_stats"])
    latents = jax.random.normal(jax.random.key(9), (512, 256))
    _, updated = generator.apply(
        {**synthesizer.variables, "batch_stats": empty}, latents, True, None, None, mutable=["batch_stats", "spectral"]
    )
    # Starting from zero, the moving average after one pass is a tenth of the batch statistics.
    for (path, stored), average in zip(
        jax.tree_util.tree_leaves_with_path(synthesizer.variables["batch_stats"]),
        jax.tree.leaves(updated["batch_stats"]),
        strict=True,
    ):
        if path[-1].key == "var":
            ratio = np.median(10 * average / stored)
            np.testing.assert_allclose(ratio, 1, atol=0.15, err_msg=jax.tree_util.keystr(path))


def test_the_model_hash_changes_with_any_weight(generator, synthesizer):
    same = synthesis.Synthesizer(generator, jax.tree.map(np.array, synthesizer.variables))
    assert same.model_hash == synthesizer.model_hash
    other = jax.tree.map(np.array, synthesizer.variables)
    jax.tree.leaves(other["params"])[-1].flat[0] += 1e-3
    assert synthesis.Synthesizer(generator, other).model_hash != synthesizer.model_hash
