"""Both networks against the published ones, and what their fields change."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_rule import GOLDEN, eight_samples, normal, tensor
from scipy.sparse.linalg import svds

from dim_jax.interop import gcgan_names
from dim_jax.models.gcgan import SIZES, Discriminator, Generator, small_size
from dim_jax.models.gcgan_blocks import DownBlock
from dim_jax.models.spectral import SpectralConv, SpectralEmbedding, SpectralSeed

NUMBERS = np.load(GOLDEN / "gcgan.npz")
SHAPES = json.loads((GOLDEN / "gcgan_state_dict.json").read_text())
PUBLISHED = [256, 512, 1024]
MUTABLE = ["batch_stats", "spectral"]
HIGHEST = jax.default_matmul_precision("highest")

draw_weight = cache(tensor)  # the three sizes share most of their tensors


@cache
def singular_pair(name, shape):
    """The leading singular vectors of a weight with the output channels as rows."""
    weight = draw_weight(name, shape).astype(np.float64)
    if name == f"{gcgan_names.LATENT}.weight_orig":
        weight = weight.swapaxes(0, 1)
    matrix = weight.reshape(len(weight), -1)
    if len(matrix) == 1:
        return np.ones(1), matrix[0] / np.linalg.norm(matrix)
    left, _, right = svds(matrix, k=1, v0=np.ones(min(matrix.shape)))
    return left[:, 0], right[0]


@cache
def published(kind, size):
    """The network, the names of its tensors, its state dict and its variables."""
    model = Generator(size, tanh=size == 1024) if kind == "generator" else Discriminator(size)
    names = gcgan_names.generator_names(model) if kind == "generator" else gcgan_names.discriminator_names(model)
    shapes = {name: tuple(shape) for name, shape in SHAPES[f"{kind}_{size}"].items()}
    state_dict = {}
    for name, shape in shapes.items():
        layer, leaf = name.rsplit(".", 1)
        if leaf in ("weight_u", "weight_v"):
            weight = f"{layer}.weight_orig"
            vector = singular_pair(weight, shapes[weight])[leaf == "weight_v"]
            state_dict[name] = vector.astype(np.float32)
        else:
            state_dict[name] = draw_weight(name, shape)
    return model, names, state_dict, gcgan_names.to_flax(state_dict, names)


def nhwc(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def close(got, name, tolerance):
    """Compares with the golden number of that name: sampled values, their mean and their spread."""
    got = np.asarray(got, np.float64)
    if got.ndim == 4:
        got = got.transpose(0, 3, 1, 2)
    elif name.endswith("logits"):
        got = np.concatenate(np.split(got, 2, axis=1))  # all of the big branch, then all of the small one
    assert got.size == np.prod(NUMBERS[f"{name}.shape"])
    expected = NUMBERS[name]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got.ravel()[NUMBERS[f"{name}.index"]], expected, rtol=0, atol=tolerance * scale)
    moments = got.mean(), got.std()
    np.testing.assert_allclose(moments, NUMBERS[f"{name}.moments"], rtol=0, atol=tolerance * scale, err_msg=name)


def close_gradients(gradients, prefix, norm_tolerance, sample_tolerance):
    names = list(NUMBERS[f"{prefix}.grad_names"])
    gains = {name for name, gradient in gradients.items() if gradient.size == 1}
    assert set(gradients) - gains == set(names)
    expected, samples = NUMBERS[f"{prefix}.grad_norms"], NUMBERS[f"{prefix}.grad_samples"]
    norms = np.array([np.linalg.norm(gradients[name]) for name in names])
    counts = expected > 1e-6 * expected.max()
    assert counts.sum() == {"G256.train": 52, "D256.train": 106}[prefix]
    np.testing.assert_allclose(norms[counts], expected[counts], rtol=norm_tolerance)
    got = np.stack([eight_samples(name, gradients[name]) for name in names])
    np.testing.assert_allclose(got, samples, rtol=0, atol=sample_tolerance * np.abs(samples).max())


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_tensor_has_a_place_of_its_shape_and_none_is_left_over(kind, size):
    model, names, state_dict, variables = published(kind, size)
    if kind == "generator":
        ours = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 256)), True), jax.random.key(0))
    else:
        ours = jax.eval_shape(lambda key: initial(model, key), jax.random.key(0))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, variables)
    counted = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    assert set(names) == counted and len(set(names.values())) == len(names)


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_conversion_round_trip_is_exact(kind):
    _, names, state_dict, variables = published(kind, 1024)
    back = gcgan_names.to_torch(variables, names)
    assert set(back) == set(names)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state_dict[name])


def test_parts_that_were_never_published_have_no_names():
    for model in (Generator(256, gate="sle"), Generator(256, up="plain"), Generator(256, num_classes=2)):
        with pytest.raises(ValueError, match="no published names"):
            gcgan_names.generator_names(model)
    with pytest.raises(ValueError, match="context='context'"):
        gcgan_names.discriminator_names(Discriminator(256, context="context"))


@pytest.mark.parametrize("size", PUBLISHED)
def test_drawing_equals_the_published_generator(size):
    model, _, _, variables = published("generator", size)
    with HIGHEST:
        images, small = jax.jit(model.apply, static_argnums=2)(variables, normal("gcgan.z", (2, 256)), False)
    close(images, f"G{size}.eval.big", 1e-5)
    close(small, f"G{size}.eval.128", 1e-5)


@pytest.mark.parametrize("size", PUBLISHED)
def test_judging_and_rebuilding_equal_the_published_discriminator(size):
    model, _, _, variables = published("discriminator", size)
    images = nhwc(np.tanh(normal(f"gcgan.x.{size}", (2, 3, size, size))))
    fake_small = nhwc(np.tanh(normal("gcgan.x.128", (2, 3, 128, 128))))
    shrunk = images[:, :: size // 128, :: size // 128]

    @jax.jit
    def look(variables, images, small, part):
        return model.apply(variables, images, small, part, False, method=model.reconstruct)

    with HIGHEST:
        close(look(variables, images, fake_small, 0)[0], f"D{size}.eval.fake_logits", 1e-5)
        for part in range(4):
            logits, rebuilt = look(variables, images, shrunk, part)
            close(rebuilt["part"], f"D{size}.eval.rec_part{part}", 1e-5)
    close(logits, f"D{size}.eval.real_logits", 1e-5)
    close(rebuilt["whole"], f"D{size}.eval.rec_big", 1e-5)
    close(rebuilt["small"], f"D{size}.eval.rec_small", 1e-5)


def trainable(kind, dtype):
    """The network at 256 px that computes in `dtype`, its names and its variables."""
    model, names, _, variables = published(kind, 256)
    return model.clone(dtype=dtype), names, jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


@cache
def generator_pass(dtype):
    """Images, their logits, and the gradient of the generator's loss by name, all with the statistics of the batch."""
    with HIGHEST, jax.enable_x64(dtype is np.float64):
        generator, names, variables = trainable("generator", dtype)
        discriminator, _, judge = trainable("discriminator", dtype)
        z = normal("gcgan.z", (2, 256)).astype(dtype)

        @jax.jit
        def gradient(variables, judge):
            def loss(params):
                given = {**variables, "params": params}
                fakes, _ = generator.apply(given, z, True, mutable=MUTABLE)
                logits, _ = discriminator.apply(judge, *fakes, True, mutable=MUTABLE)
                return -logits.mean(), (fakes, logits)

            return jax.grad(loss, has_aux=True)(variables["params"])

        found, (fakes, logits) = jax.device_get(gradient(variables, judge))
    return fakes, logits, gcgan_names.to_torch({"params": found}, names)


# The float64 case holds the same program to stricter bounds; this one takes a minute to compile for each network.
IN_FLOAT32 = pytest.param(np.float32, 1e-5, 8e-4, 5e-3, marks=pytest.mark.slow)


# In float64 the mathematics must agree. In float32 an activation at the edge of a LeakyReLU may fall on the other side,
# and in the discriminator's larger maps a single one shows in a gradient.
@pytest.mark.parametrize(("dtype", "value", "norm", "sample"), [IN_FLOAT32, (np.float64, 1e-12, 1e-9, 1e-9)])
def test_a_generator_step_equals_the_published_one(dtype, value, norm, sample):
    (images, small), logits, gradients = generator_pass(dtype)
    assert images.dtype == dtype
    close(images, "G256.train.big", value)
    close(small, "G256.train.128", value)
    close(logits, "GD256.train.fake_logits", value)
    close_gradients(gradients, "G256.train", norm, sample)


@pytest.mark.parametrize(("dtype", "value", "norm", "sample"), [IN_FLOAT32, (np.float64, 1e-12, 1e-8, 1e-8)])
def test_a_discriminator_step_equals_the_published_one(dtype, value, norm, sample):
    # The generator's own rounding in float32 would move activations across their edge before this network computes.
    fakes = [image.astype(dtype) for image in generator_pass(np.float64)[0]]
    real = np.tanh(normal("gcgan.x.256", (2, 3, 256, 256)).astype(np.float64)).astype(dtype)
    with HIGHEST, jax.enable_x64(dtype is np.float64):
        model, names, variables = trainable("discriminator", dtype)

        @jax.jit
        def gradient(variables, images, fakes):
            small, quadrant = images[:, ::2, ::2], images[:, 128:, :128]

            def distance(one, other):
                return jnp.square(one - other).mean()

            def loss(params):
                given = {**variables, "params": params}
                (logits, rebuilt), seen = model.apply(
                    given, images, small, 2, True, method=model.reconstruct, mutable=MUTABLE
                )
                fake_logits, _ = model.apply({**seen, "params": params}, *fakes, True, mutable=MUTABLE)
                rebuilding = sum(distance(rebuilt[name], small) for name in ("whole", "small"))
                rebuilding += distance(rebuilt["part"], quadrant)
                hinges = jax.nn.relu(0.9 - logits).mean() + jax.nn.relu(0.9 + fake_logits).mean()
                return hinges + rebuilding, (logits, rebuilt)

            return jax.grad(loss, has_aux=True)(variables["params"])

        found, (logits, rebuilt) = jax.device_get(gradient(variables, nhwc(real), fakes))
    close(logits, "D256.train.real_logits", value)
    close(rebuilt["whole"], "D256.train.rec_big", value)
    close(rebuilt["small"], "D256.train.rec_small", value)
    close(rebuilt["part"], "D256.train.rec_part2", value)
    close_gradients(gcgan_names.to_torch({"params": found}, names), "D256.train", norm, sample)


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


# Compiled: eagerly every operation of a network compiles by itself.
draw = jax.jit(lambda model, *arguments: model.apply(*arguments), static_argnums=(0, 3))
judge = jax.jit(lambda model, *arguments: model.apply(*arguments), static_argnums=(0, 4))


def latents(number=3):
    return normal("latents", (number, 256))


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    generator, discriminator = Generator(size, WIDTH), Discriminator(size, WIDTH)
    side = small_size(size)

    def everything(key):
        drawn, _ = generator.init_with_output(key, latents(2), True)
        judged, variables = discriminator.init_with_output(key, *drawn, 3, True, method=discriminator.reconstruct)
        return drawn, judged, variables

    (images, small), (logits, rebuilt), variables = jax.eval_shape(everything, jax.random.key(0))
    assert images.shape == (2, size, size, 3) and small.shape == (2, side, side, 3)
    assert logits.shape == (2, 50)
    assert {name: image.shape for name, image in rebuilt.items()} == dict.fromkeys(
        ("whole", "small", "part"), (2, side, side, 3)
    )
    gates = [name for name in variables["params"]["big"] if name.startswith("gate")]
    assert len(gates) == {64: 1, 128: 2}.get(size, 3)


def test_an_image_does_not_depend_on_its_batch_mates():
    model, variables = small_generator()
    keys = jax.random.split(jax.random.key(3), 3)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # let the noise count
    together = draw(model, variables, latents(), False, None, keys)
    order = np.array([0, 2, 1])
    others = draw(model, variables, latents()[order], False, None, keys[order])
    for one, other in zip(together, others, strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-6)
    discriminator, judging = small_discriminator()
    images = pictures(64, 3)
    logits = judge(discriminator, judging, *images, False)
    others = judge(discriminator, judging, *(each[order] for each in images), False)
    np.testing.assert_allclose(logits[order], others, atol=1e-5)


def test_injected_noise_counts_for_nothing_at_first_and_is_drawn_by_key_and_layer():
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
        given = {**variables, "params": louder}
        one, same, other = (
            draw(model, given, latents(), False, None, k)[0] for k in (keys, keys, jnp.roll(keys, 1, axis=0))
        )
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)
        differences.append(np.asarray(one - silent[0]))
    assert len({each.tobytes() for each in differences}) == 4


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
def test_fields_of_the_generator_leave_out_and_add_parts(fields, missing, extra):
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
    ("fields", "told"),
    [({"size": 100}, "100"), ({"gate": "x"}, "sle"), ({"up": ""}, "compound"), ({"context": "m"}, "map")],
)
def test_a_field_that_does_not_exist_is_refused_with_the_choices(fields, told):
    with pytest.raises(ValueError, match=told):
        Generator(**{"size": 64, **fields})
    with pytest.raises(ValueError, match="width=0"):
        Discriminator(64, 0.0)


def test_a_conditional_gan_heeds_the_label_and_needs_one():
    generator, variables = small_generator(num_classes=3)
    discriminator, judging = small_discriminator(num_classes=3)
    same = np.repeat(latents(1), 3, axis=0)
    labels = jnp.array([0, 1, 1])
    images, _ = draw(generator, variables, same, False, labels)
    assert not np.allclose(images[0], images[1])
    np.testing.assert_allclose(images[1], images[2], atol=1e-6)
    looks = [np.repeat(each, 3, axis=0) for each in pictures(64, 1)]
    logits = judge(discriminator, judging, *looks, False, labels)
    np.testing.assert_allclose(logits[1], logits[2], atol=1e-6)
    # A label moves all logits of a branch alike.
    moved = np.asarray(logits[1] - logits[0])
    for branch in np.split(moved, 2):
        np.testing.assert_allclose(branch, branch[0], atol=1e-6)
        assert abs(branch[0]) > 1e-6
    with pytest.raises(ValueError, match="num_classes=3 needs labels"):
        generator.apply(variables, same, False)
    with pytest.raises(ValueError, match="takes no labels"):
        small_generator()[0].apply(small_generator()[1], same, False, labels)


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


def test_a_part_is_rebuilt_from_its_quadrant_alone():
    model, variables = small_discriminator()
    images, small = pictures(64)
    changed = images.copy()
    changed[:, :16, :16] += 1.0  # far from the bottom right, but for the gates, which see all of the image
    ungated = model.clone(gate="none")

    @jax.jit
    def part(images, number):
        found = ungated.apply(variables, images, small, number, False, method=model.reconstruct)[1]
        return found["part"]

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
def test_calls_in_training_bring_the_largest_singular_value_to_one(layer, x):
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


def test_first_singular_vectors_are_near_the_leading_ones():
    variables = SpectralConv(32, 3).init(jax.random.key(0), normal("x", (1, 8, 8, 16)), True)
    matrix = np.asarray(variables["params"]["kernel"]).reshape(-1, 32)
    u, v = (np.asarray(variables["spectral"][name]).ravel() for name in "uv")
    assert v @ matrix @ u > 0.9 * np.linalg.svd(matrix)[1][0]


def test_a_penalty_on_gradients_can_be_differentiated():
    """As R1 does; here on one block with stored statistics, and against differences of the penalty."""
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
        found = jax.jit(jax.grad(penalty))(params)
        for name in ("halve", "refine", "direct"):
            kernel, step = params[name]["kernel"], 1e-6 * normal(name, params[name]["kernel"].shape)
            ends = [penalty({**params, name: {"kernel": kernel + sign * step}}) for sign in (-1, 1)]
            slope = (found[name]["kernel"] * step).sum()
            np.testing.assert_allclose((ends[1] - ends[0]) / 2, slope, rtol=1e-6)
            assert abs(slope) > 0


def test_bfloat16_stays_near_float32():
    model, variables = small_generator()
    exact, _ = draw(model, variables, latents(), False)
    rough, _ = draw(model.clone(dtype=jnp.bfloat16), variables, latents(), False)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.05 * float(np.abs(exact).max()))
