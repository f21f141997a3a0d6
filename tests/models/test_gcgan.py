"""Fields of both networks; test_parity.py compares them with the published ones."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_rule import normal

from dim_jax.models.gcgan import SIZES, Discriminator, Generator, small_size
from dim_jax.models.gcgan_blocks import DownBlock
from dim_jax.models.spectral import SpectralConv, SpectralEmbedding, SpectralSeed
from dim_jax.weights import gcgan_names


def test_modules_that_were_never_published_have_no_names():
    for model in (Generator(256, gate="sle"), Generator(256, up="plain"), Generator(256, num_classes=2)):
        with pytest.raises(ValueError, match="no published names"):
            gcgan_names.generator_names(model)
    with pytest.raises(ValueError, match="context='context'"):
        gcgan_names.discriminator_names(Discriminator(256, context="context"))


WIDTH = 1 / 64


def pictures(size, number=2):
    return [normal(f"pictures{side}", (number, side, side, 3)) for side in (size, small_size(size))]


def initial(model, key, **arguments):
    return model.init(key, *pictures(model.size, 1), 0, True, method=model.reconstruct, **arguments)


@cache
def small_generator(**fields):
    model = Generator(64, WIDTH, **fields)
    labels = jnp.zeros(1, jnp.int32) if model.num_classes else None
    return model, jax.jit(lambda key: model.init(key, jnp.zeros((1, 256)), True, labels))(jax.random.key(0))


@cache
def small_discriminator(**fields):
    model = Discriminator(64, WIDTH, **fields)
    labels = jnp.zeros(1, jnp.int32) if model.num_classes else None
    return model, jax.jit(lambda key: initial(model, key, labels=labels))(jax.random.key(1))


# Jitted: without, every operation of a network is compiled separately.
draw = jax.jit(lambda model, *arguments: model.apply(*arguments), static_argnums=(0, 3))
discriminate = jax.jit(lambda model, *arguments: model.apply(*arguments), static_argnums=(0, 4))


def latents(number=3):
    return normal("latents", (number, 256))


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    generator, discriminator = Generator(size, WIDTH), Discriminator(size, WIDTH)
    side = small_size(size)

    def everything(key):
        images, _ = generator.init_with_output(key, latents(2), True)
        outputs, variables = discriminator.init_with_output(key, *images, 3, True, method=discriminator.reconstruct)
        return images, outputs, variables

    (images, small), (logits, reconstructions), variables = jax.eval_shape(everything, jax.random.key(0))
    assert images.shape == (2, size, size, 3) and small.shape == (2, side, side, 3)
    assert logits.shape == (2, 50)
    assert {name: image.shape for name, image in reconstructions.items()} == dict.fromkeys(
        ("whole", "small", "part"), (2, side, side, 3)
    )
    gates = [name for name in variables["params"]["big"] if name.startswith("gate")]
    assert len(gates) == {64: 1, 128: 2}.get(size, 3)


def test_an_image_does_not_depend_on_its_batch_mates():
    model, variables = small_generator()
    keys = jax.random.split(jax.random.key(3), 3)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # a gain above 0
    together = draw(model, variables, latents(), False, None, keys)
    order = np.array([0, 2, 1])
    others = draw(model, variables, latents()[order], False, None, keys[order])
    for one, other in zip(together, others, strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-6)
    discriminator, weights = small_discriminator()
    images = pictures(64, 3)
    logits = discriminate(discriminator, weights, *images, False)
    others = discriminate(discriminator, weights, *(image[order] for image in images), False)
    np.testing.assert_allclose(logits[order], others, atol=1e-5)


def test_injected_noise_has_no_effect_at_first_and_depends_on_key_and_layer():
    model, variables = small_generator()
    keys = jax.random.split(jax.random.key(3), 3)
    silent = draw(model, variables, latents(), False, None, None)
    np.testing.assert_array_equal(draw(model, variables, latents(), False, None, keys)[0], silent[0])
    gains = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "gain"
    }
    assert len(gains) == 4 and not any(leaf.any() for leaf in gains.values())
    differences = []
    for name in gains:
        louder = jax.tree_util.tree_map_with_path(
            lambda path, leaf, name=name: leaf + (jax.tree_util.keystr(path) == name), variables["params"]
        )
        louder_variables = {**variables, "params": louder}
        one, same, other = (
            draw(model, louder_variables, latents(), False, None, k)[0] for k in (keys, keys, jnp.roll(keys, 1, axis=0))
        )
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)
        differences.append(np.asarray(one - silent[0]))
    assert len({difference.tobytes() for difference in differences}) == 4


@pytest.mark.parametrize(
    ("fields", "missing", "extra"),
    [
        ({"gate": "none"}, "gate64", None),
        ({"gate": "sle"}, "context", None),
        ({"up": "compound"}, "skip", None),
        ({"up": "plain"}, "first", "conv"),
        ({"context": "context"}, None, "attention"),
    ],
)
def test_fields_of_the_generator_remove_and_add_modules(fields, missing, extra):
    def parts(model):
        shapes = jax.eval_shape(lambda key: model.init(key, latents(1), True), jax.random.key(0))
        paths = jax.tree_util.tree_leaves_with_path(shapes["params"])
        return {entry.key for path, _ in paths for entry in path}

    default, changed = parts(Generator(64, WIDTH)), parts(Generator(64, WIDTH, **fields))
    assert missing is None or (missing in default and missing not in changed)
    assert extra is None or extra in changed
    model, variables = small_generator(**fields)
    images, _ = draw(model, variables, latents(), False)
    assert np.isfinite(images).all() and images.std() > 0


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"size": 100}, "100"), ({"gate": "x"}, "sle"), ({"up": ""}, "compound"), ({"context": "m"}, "map")],
)
def test_a_field_that_does_not_exist_is_refused_with_the_choices(fields, match):
    with pytest.raises(ValueError, match=match):
        Generator(**{"size": 64, **fields})
    with pytest.raises(ValueError, match="width=0"):
        Discriminator(64, 0.0)


def test_a_conditional_gan_depends_on_the_label_and_requires_one():
    generator, variables = small_generator(num_classes=3)
    discriminator, weights = small_discriminator(num_classes=3)
    same = np.repeat(latents(1), 3, axis=0)
    labels = jnp.array([0, 1, 1])
    images, _ = draw(generator, variables, same, False, labels)
    assert not np.allclose(images[0], images[1])
    np.testing.assert_allclose(images[1], images[2], atol=1e-6)
    images = [np.repeat(image, 3, axis=0) for image in pictures(64, 1)]
    logits = discriminate(discriminator, weights, *images, False, labels)
    np.testing.assert_allclose(logits[1], logits[2], atol=1e-6)
    # A label shifts all logits of a branch equally.
    moved = np.asarray(logits[1] - logits[0])
    for branch in np.split(moved, 2):
        np.testing.assert_allclose(branch, branch[0], atol=1e-6)
        assert abs(branch[0]) > 1e-6
    with pytest.raises(ValueError, match="num_classes=3 needs labels"):
        generator.apply(variables, same, False)
    with pytest.raises(ValueError, match="takes no labels"):
        small_generator()[0].apply(small_generator()[1], same, False, labels)


def test_label_strength_interpolates_from_the_unconditional_to_the_conditional_gan():
    generator, variables = small_generator(num_classes=3)
    discriminator, weights = small_discriminator(num_classes=3)
    same, labels = np.repeat(latents(1), 3, axis=0), jnp.arange(3)
    images, weak, whole = (
        draw(generator, variables, same, False, labels, None, strength)[0] for strength in (0.0, 0.01, 1.0)
    )
    np.testing.assert_array_equal(images, draw(generator, variables, same, False, labels[::-1], None, 0.0)[0])
    np.testing.assert_allclose(images, np.repeat(images[:1], 3, axis=0), atol=1e-6)
    assert 0 < abs(weak - images).max() < abs(whole - images).max()
    np.testing.assert_array_equal(whole, draw(generator, variables, same, False, labels)[0])

    images = pictures(64, 3)
    none, half, full = (
        discriminate(discriminator, weights, *images, False, labels, strength) for strength in (0.0, 0.5, 1.0)
    )
    without = {key: tree for key, tree in weights["params"].items() if not key.endswith("_labels")}
    unconditional = discriminate(discriminator.clone(num_classes=0), {**weights, "params": without}, *images, False)
    np.testing.assert_allclose(none, unconditional, atol=1e-6)
    np.testing.assert_allclose(half, (none + full) / 2, atol=1e-6)
    np.testing.assert_array_equal(full, discriminate(discriminator, weights, *images, False, labels))


def test_width_multiplies_channels_and_keeps_the_latent_size():
    _, narrow = small_generator()
    model = Generator(64, 2 * WIDTH)
    wide = jax.eval_shape(lambda key: model.init(key, latents(1), True), jax.random.key(0))
    assert narrow["params"]["seed"]["kernel"].shape == (256, 4, 4, 32)
    assert wide["params"]["seed"]["kernel"].shape == (256, 4, 4, 64)


def test_tanh_bounds_both_sizes_and_nothing_else():
    model, variables = small_generator()
    pairs = (draw(model.clone(tanh=tanh), variables, latents(), False) for tanh in (False, True))
    for free, bounded in zip(*pairs, strict=True):
        np.testing.assert_allclose(np.tanh(free), bounded, atol=1e-6)


def test_a_part_is_reconstructed_from_its_quadrant_alone():
    model, variables = small_discriminator()
    images, small = pictures(64)
    changed = images.copy()
    changed[:, :16, :16] += 1.0  # far from the bottom right, except through the gates, which depend on the whole image
    ungated = model.clone(gate="none")

    @jax.jit
    def part(images, number):
        reconstructions = ungated.apply(variables, images, small, number, False, method=model.reconstruct)[1]
        return reconstructions["part"]

    assert not np.allclose(part(images, 0), part(changed, 0))
    np.testing.assert_allclose(part(images, 3), part(changed, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (SpectralConv(6, 3), normal("x", (1, 8, 8, 5))),
        (SpectralConv(1, 4), normal("x", (1, 8, 8, 5))),
        (SpectralSeed(6), normal("x", (1, 5))),
        (SpectralEmbedding(7, 5), jnp.array([0])),
    ],
)
def test_power_iteration_brings_the_largest_singular_value_to_one(layer, x):
    variables = layer.init(jax.random.key(0), x, True)
    (weights,) = jax.tree.leaves(variables["params"])
    params = jax.tree.map(lambda leaf: 3.0 * leaf, variables["params"])
    matrix = 3.0 * np.asarray(weights).reshape(-1, weights.shape[-1])
    assert variables["spectral"]["v"].shape == weights.shape[:-1]
    step = jax.jit(
        lambda spectral: layer.apply({"params": params, "spectral": spectral}, x, True, mutable=["spectral"])[1]
    )
    spectral = variables["spectral"]
    for _ in range(100):
        spectral = step({**spectral})["spectral"]
    u, v = np.asarray(spectral["u"]), np.asarray(spectral["v"]).ravel()
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1, rtol=1e-5)
    np.testing.assert_allclose(v @ matrix @ u, np.linalg.svd(matrix)[1][0], rtol=1e-3)
    before = layer.apply({"params": params, "spectral": spectral}, x, False)
    after, _ = layer.apply({"params": params, "spectral": spectral}, x, True, mutable=["spectral"])
    np.testing.assert_allclose(after, before, atol=1e-3 * float(jnp.abs(before).max()))


def test_initial_singular_vectors_are_near_the_leading_ones():
    variables = SpectralConv(32, 3).init(jax.random.key(0), normal("x", (1, 8, 8, 16)), True)
    matrix = np.asarray(variables["params"]["kernel"]).reshape(-1, 32)
    u, v = (np.asarray(variables["spectral"][name]).ravel() for name in "uv")
    assert v @ matrix @ u > 0.9 * np.linalg.svd(matrix)[1][0]


def test_a_penalty_on_gradients_can_be_differentiated():
    """As for R1: one block with stored statistics, against finite differences of the penalty."""
    block, x = DownBlock(3), 0.5 * normal("x", (2, 8, 8, 2)).astype(np.float64)
    with jax.enable_x64(True):
        block = block.clone(dtype=np.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), block.init(jax.random.key(0), x, True))

        @jax.jit
        def penalty(params):
            def score(x):
                return jnp.square(block.apply({**variables, "params": params}, x, False)).sum()

            return jnp.square(jax.grad(score)(x)).sum()

        params = variables["params"]
        gradient = jax.jit(jax.grad(penalty))(params)
        for name in ("halve", "refine", "direct"):
            kernel, step = params[name]["kernel"], 1e-6 * normal(name, params[name]["kernel"].shape)
            ends = [penalty({**params, name: {"kernel": kernel + sign * step}}) for sign in (-1, 1)]
            slope = (gradient[name]["kernel"] * step).sum()
            np.testing.assert_allclose((ends[1] - ends[0]) / 2, slope, rtol=1e-6)
            assert abs(slope) > 0


def test_bfloat16_stays_near_float32():
    model, variables = small_generator()
    exact, _ = draw(model, variables, latents(), False)
    low_precision, _ = draw(model.clone(dtype=jnp.bfloat16), variables, latents(), False)
    assert low_precision.dtype == jnp.float32
    np.testing.assert_allclose(low_precision, exact, atol=0.05 * float(np.abs(exact).max()))
