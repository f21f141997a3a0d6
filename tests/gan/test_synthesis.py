"""Drawing from a generator: an image belongs to its seed, whatever is drawn beside it."""

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


def test_an_image_has_the_same_bytes_alone_and_in_any_company(synthesizer):
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


def test_truncation_brings_images_together(synthesizer):
    whole, half = (synthesizer.images(range(16), truncation=t).astype(float) for t in (1.0, 0.1))
    assert half.std(0).mean() < 0.5 * whole.std(0).mean()


@pytest.mark.parametrize(("seeds", "truncation"), [([-1], 1.0), ([2**31], 1.0), ([0], 0.0), ([0], float("nan"))])
def test_senseless_seeds_and_truncations_are_refused(synthesizer, seeds, truncation):
    with pytest.raises(ValueError, match=r"seeds|truncation"):
        synthesizer.images(seeds, truncation=truncation)


def test_recalibrated_statistics_are_those_of_the_images_that_are_drawn(generator, variables, synthesizer):
    """The first norm sees a linear function of the latents: its statistics are known."""
    again = synthesis.recalibrate(generator, variables)
    jax.tree.map(np.testing.assert_array_equal, again, synthesizer.variables)
    _, seen = generator.apply(
        synthesizer.variables, jax.random.normal(jax.random.key(9), (512, 256)), True, None, None,
        mutable=["batch_stats", "spectral"],
    )  # fmt: skip
    empty = jax.tree.map(jnp.zeros_like, synthesizer.variables["batch_stats"])
    given = {**synthesizer.variables, "batch_stats": empty}
    _, seen = generator.apply(
        given, jax.random.normal(jax.random.key(9), (512, 256)), True, None, None, mutable=["batch_stats", "spectral"]
    )
    # One batch of 512 other latents; what a single pass stores is a tenth of it.
    for (path, stored), found in zip(
        jax.tree_util.tree_leaves_with_path(synthesizer.variables["batch_stats"]),
        jax.tree.leaves(seen["batch_stats"]),
        strict=True,
    ):
        if path[-1].key == "var":
            np.testing.assert_allclose(np.median(10 * found / stored), 1, atol=0.15, err_msg=jax.tree_util.keystr(path))


def test_the_model_hash_changes_with_any_weight(generator, synthesizer):
    same = synthesis.Synthesizer(generator, jax.tree.map(np.array, synthesizer.variables))
    assert same.model_hash == synthesizer.model_hash
    other = jax.tree.map(np.array, synthesizer.variables)
    jax.tree.leaves(other["params"])[-1].flat[0] += 1e-3
    assert synthesis.Synthesizer(generator, other).model_hash != synthesizer.model_hash
