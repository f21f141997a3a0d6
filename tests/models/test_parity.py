"""Networks, losses, augmentation, optimizers and metrics against the published code, with a tolerance for each.

The golden numbers (tests/golden/README.md) were computed by the published code in float64 from float32 weights and
inputs; optimizers, DiffAugment and LPIPS in float32. `golden_rule.tensor` makes every weight from its name, so
this package contributes nothing but the computation. Tolerances are relative to the largest value of a tensor unless
noted.

| part | tolerance | reason |
|---|---|---|
| names and shapes, conversion | exact | only axes are transposed |
| LRF-CNN and GCGAN in evaluation | 1e-5 | float32 through up to a hundred layers; errors are 2e-6 |
| their training passes in float64 | 1e-12 to 1e-6 | the mathematics must agree |
| the same in float32 | 1e-5, gradients 8e-4 to 1e-2 | an activation near 0 may fall on the other side of a ReLU |
| FAFL, DiffAugment | 1e-6 | a few float32 operations |
| LPIPS | 2e-6 of each distance | thirteen convolutions, then a mean over all positions |
| Adam and RMSprop, 60 steps | 2e-6 of a weight of order 1 | rounding adds up over the steps |
| metrics | 1e-12 | counts and float64 |

More sizes, and all gradients, take minutes: `python -m pytest -m slow tests/models/test_parity.py`.
"""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_networks import close_gradients, close_to_golden, published, write_lpips_files
from golden_rule import GOLDEN, eight_samples, normal, tensor

from dim_jax import losses
from dim_jax.augmentation import diff_augment
from dim_jax.evaluation.metrics import classification_metrics
from dim_jax.models.gcgan import small_size
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.models.prepared_weights import prepare_weights
from dim_jax.training.learning_rates import make_learning_rate
from dim_jax.training.optimizers import make_optimizer
from dim_jax.weights import gcgan_names, pretrained, torch_names

# A GPU would multiply in TF32 otherwise.
HIGHEST = jax.default_matmul_precision("highest")


@pytest.fixture(autouse=True)
def programs_end_with_their_test():
    """The programs of all tests together would come near the system's limit of memory maps."""
    yield
    jax.clear_caches()


def nhwc(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def close(got, expected, tolerance):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# LRF-CNN

LRF_CNN = np.load(GOLDEN / "lrf_cnn.npz")
SHAPES = json.loads((GOLDEN / "lrf_cnn_state_dict.json").read_text())
MODEL = LRFCNN(num_classes=5, drop_connect=0.0)
NAMES = torch_names.lrf_cnn_names(MODEL)
STATE_DICT = {name: tensor(name, tuple(shape)) for name, shape in SHAPES.items()}
VARIABLES = torch_names.to_flax(STATE_DICT, NAMES)


def test_names_and_shapes_of_lrf_cnn_match_the_published_ones():
    published = {name: tuple(shape) for name, shape in SHAPES.items() if not name.endswith("num_batches_tracked")}
    ours = jax.eval_shape(MODEL.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    ours = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), ours)
    assert {name: value.shape for name, value in torch_names.to_torch(ours, NAMES).items()} == published
    assert sum(leaf.size for leaf in jax.tree.leaves(ours["params"])) == 24_413_190


def test_lrf_cnn_s_conversion_round_trip_is_exact():
    back = torch_names.to_torch(VARIABLES, NAMES)
    for name, value in back.items():
        np.testing.assert_array_equal(value, STATE_DICT[name])


def test_a_state_dict_that_does_not_fit_is_refused_by_name():
    broken = dict(STATE_DICT)
    broken["classifier.weights"] = broken.pop("classifier.weight")
    with pytest.raises(ValueError, match=r"classifier\.weight'.*classifier\.weights"):
        torch_names.to_flax(broken, NAMES)


@pytest.mark.parametrize(("size", "batch"), [(299, 2), (96, 3), pytest.param(75, 2, marks=pytest.mark.slow)])
def test_lrf_cnn_classifies_as_published(size, batch):
    images = nhwc(normal(f"lrf_cnn.input.{size}", (batch, 3, size, size)))
    with HIGHEST:
        logits, features = jax.jit(MODEL.apply)(VARIABLES, images)
    close(logits, LRF_CNN[f"eval_logits_{size}"], 1e-5)
    close(features, LRF_CNN[f"eval_features_{size}"], 1e-5)


def test_lrf_cnn_classifies_as_published_on_prepared_weights():
    """At 96 px most dilated convolutions use Winograd's algorithm, and some go tap by tap."""
    images = nhwc(normal("lrf_cnn.input.96", (3, 3, 96, 96)))
    with HIGHEST:
        collections = jax.jit(lambda variables: prepare_weights(MODEL, variables, images[:1]))(VARIABLES)
        logits, features = jax.jit(MODEL.apply)({**VARIABLES, **collections}, images)
    weights = collections["prepared"]["block2"]
    assert [len(weights[branch]["matrices"]) for branch in ("branch1_dilated", "branch3_dilated")] == [16, 9]
    close(logits, LRF_CNN["eval_logits_96"], 1e-5)
    close(features, LRF_CNN["eval_features_96"], 1e-5)


def lrf_cnn_gradient(dtype):
    """Loss, logits, gradients and running statistics of one training pass under the published FAFL, in `dtype`."""
    images = nhwc(normal("lrf_cnn.input.train", (6, 3, 96, 96)).astype(dtype))
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), VARIABLES)
    labels = jnp.array([0, 1, 2, 3, 4, 4])
    ones = jnp.ones(6, dtype)

    @jax.jit
    def loss_and_gradient(params):
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            (logits, _), updates = MODEL.clone(dtype=dtype).apply(given, images, train=True, mutable=["batch_stats"])
            per_example = losses.published_fafl(
                logits, labels, ones, ones, lambda x: x, alpha0=0.5, beta0=3.0, m=1.0, adaptive=1.0
            )
            return per_example.mean(), (logits, updates["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    with HIGHEST:
        (loss, (logits, batch_stats)), gradient = loss_and_gradient(variables["params"])
    gradients = torch_names.to_torch({"params": gradient}, NAMES)
    return loss, logits, gradients, torch_names.to_torch({"batch_stats": batch_stats}, NAMES)


# In float64 every tensor must agree. In float32 an activation near 0 may fall on the other side of a ReLU, changing a
# few small entries: there norms and samples are compared relative to the largest of all, like the float32 errors of the
# published code's own golden numbers, and each norm by itself with a larger tolerance.
@pytest.mark.slow  # compiling the whole network's gradient takes most of a minute
@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "norm_tolerance", "sample_tolerance"),
    [(np.float32, 1e-5, 1e-2, 5e-3), (np.float64, 1e-8, 1e-7, 1e-6)],
)
def test_lrf_cnn_with_fafl_learns_as_published(dtype, value_tolerance, norm_tolerance, sample_tolerance):
    with jax.enable_x64(dtype is np.float64):
        loss, logits, gradients, statistics = lrf_cnn_gradient(dtype)
    assert logits.dtype == dtype
    close(logits, LRF_CNN["train_logits_96"], value_tolerance)
    close(loss, LRF_CNN["train_loss_96"], max(value_tolerance, 1e-7))

    assert set(gradients) == set(LRF_CNN["grad_names"])
    expected_norms = dict(zip(LRF_CNN["grad_names"], LRF_CNN["grad_norms"], strict=True))
    floor = 1e-6 * max(expected_norms.values())
    norms = [np.linalg.norm(gradients[name]) for name in LRF_CNN["grad_names"]]
    close(norms, LRF_CNN["grad_norms"], min(norm_tolerance, 8e-4))
    for name, samples in zip(LRF_CNN["grad_names"], LRF_CNN["grad_samples"], strict=True):
        if expected_norms[name] > floor:
            norm = np.linalg.norm(gradients[name])
            np.testing.assert_allclose(norm, expected_norms[name], rtol=norm_tolerance, err_msg=name)
            scale = np.abs(samples if dtype is np.float64 else LRF_CNN["grad_samples"]).max()
            got = eight_samples(name, gradients[name])
            np.testing.assert_allclose(got, samples, rtol=0, atol=sample_tolerance * scale, err_msg=name)
    assert sum(norm > floor for norm in expected_norms.values()) == 450

    assert set(statistics) == set(LRF_CNN["bn_names"])
    for name, samples in zip(LRF_CNN["bn_names"], LRF_CNN["bn_samples"], strict=True):
        np.testing.assert_allclose(eight_samples(name, statistics[name]), samples, rtol=1e-4, atol=1e-5, err_msg=name)


# FAFL

FAFL = np.load(GOLDEN / "fafl.npz")


@pytest.mark.parametrize("case", [f"c{number}" for number in range(7)])
def test_fafl_and_its_gradient_are_as_published(case):
    _, alpha0, beta0, m, _ = FAFL[f"{case}_params"]
    logits = jnp.asarray(FAFL[f"{case}_logits"], jnp.float32)
    labels = FAFL[f"{case}_labels"].astype(np.int32)
    ones = np.ones(len(labels), np.float32)

    @jax.jit
    def mean(logits):
        per_example = losses.published_fafl(
            logits, labels, ones, np.ones(logits.shape[1]), lambda x: x, alpha0=alpha0, beta0=beta0, m=m, adaptive=1.0
        )
        return per_example.mean(), per_example

    (value, per_example), gradient = jax.value_and_grad(mean, has_aux=True)(logits)
    for got, key in ((value, "mean"), (per_example, "per_example"), (gradient, "grad_of_mean")):
        close(got, FAFL[f"{case}_{key}"], 1e-6)


# GCGAN

PUBLISHED = [256, 512, 1024]
DRAWN = [256, *(pytest.param(size, marks=pytest.mark.slow) for size in (512, 1024))]
MUTABLE = ["batch_stats", "spectral"]


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_of_gcgan_match_the_published_ones(kind, size):
    model, names, state_dict, variables = published(kind, size)
    if kind == "generator":
        ours = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 256)), True), jax.random.key(0))
    else:
        looks = [jnp.zeros((1, side, side, 3)) for side in (size, small_size(size))]
        ours = jax.eval_shape(lambda key: model.init(key, *looks, 0, True, method="reconstruct"), jax.random.key(0))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, variables)
    counted = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    assert set(names) == counted and len(set(names.values())) == len(names)


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_gcgan_s_conversion_round_trip_is_exact(kind):
    _, names, state_dict, variables = published(kind, 1024)
    back = gcgan_names.to_torch(variables, names)
    assert set(back) == set(names)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state_dict[name])


@pytest.mark.parametrize("size", DRAWN)
def test_gcgan_generates_as_published(size):
    model, _, _, variables = published("generator", size)
    with HIGHEST:
        images, small = jax.jit(model.apply, static_argnums=2)(variables, normal("gcgan.z", (2, 256)), False)
    close_to_golden(images, f"G{size}.eval.big", 1e-5)
    close_to_golden(small, f"G{size}.eval.128", 1e-5)


@pytest.mark.parametrize("size", DRAWN)
def test_gcgan_discriminates_and_reconstructs_as_published(size):
    model, _, _, variables = published("discriminator", size)
    images = nhwc(np.tanh(normal(f"gcgan.x.{size}", (2, 3, size, size))))
    fake_small = nhwc(np.tanh(normal("gcgan.x.128", (2, 3, 128, 128))))
    shrunk = images[:, :: size // 128, :: size // 128]

    @jax.jit
    def look(variables, images, small, part):
        return model.apply(variables, images, small, part, False, method=model.reconstruct)

    with HIGHEST:
        close_to_golden(look(variables, images, fake_small, 0)[0], f"D{size}.eval.fake_logits", 1e-5)
        for part in range(4):
            logits, rebuilt = look(variables, images, shrunk, part)
            close_to_golden(rebuilt["part"], f"D{size}.eval.rec_part{part}", 1e-5)
    close_to_golden(logits, f"D{size}.eval.real_logits", 1e-5)
    close_to_golden(rebuilt["whole"], f"D{size}.eval.rec_big", 1e-5)
    close_to_golden(rebuilt["small"], f"D{size}.eval.rec_small", 1e-5)


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

        parameter_gradient, (fakes, logits) = jax.device_get(gradient(variables, judge))
    return fakes, logits, gcgan_names.to_torch({"params": parameter_gradient}, names)


# Gradients in float64 show what float32 rounds away; both are slow to compile or to run.
# Norms are relative to themselves; how far float32 is off depends on the processor, by 1.1e-3 on one.
IN_FLOAT32 = (np.float32, 1e-5, 2e-3, 5e-3)


# In float32 an activation near 0 may fall on the other side of a LeakyReLU, and in the discriminator's larger maps a
# single one changes a gradient visibly.
@pytest.mark.slow  # XLA has no fast float64 convolution on CPU: minutes each
@pytest.mark.parametrize(("dtype", "value", "norm", "sample"), [IN_FLOAT32, (np.float64, 1e-12, 1e-9, 1e-9)])
def test_the_generator_learns_as_published(dtype, value, norm, sample):
    (images, small), logits, gradients = generator_pass(dtype)
    assert images.dtype == dtype
    close_to_golden(images, "G256.train.big", value)
    close_to_golden(small, "G256.train.128", value)
    close_to_golden(logits, "GD256.train.fake_logits", value)
    close_gradients(gradients, "G256.train", norm, sample)


@pytest.mark.slow  # XLA has no fast float64 convolution on CPU: minutes each
@pytest.mark.parametrize(("dtype", "value", "norm", "sample"), [IN_FLOAT32, (np.float64, 1e-12, 1e-8, 1e-8)])
def test_the_discriminator_learns_as_published(dtype, value, norm, sample):
    # The generator's rounding in float32 would already move activations across 0.
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
                (logits, rebuilt), statistics = model.apply(
                    given, images, small, 2, True, method=model.reconstruct, mutable=MUTABLE
                )
                fake_logits, _ = model.apply({**statistics, "params": params}, *fakes, True, mutable=MUTABLE)
                rebuilding = sum(distance(rebuilt[name], small) for name in ("whole", "small"))
                rebuilding += distance(rebuilt["part"], quadrant)
                hinges = jax.nn.relu(0.9 - logits).mean() + jax.nn.relu(0.9 + fake_logits).mean()
                return hinges + rebuilding, (logits, rebuilt)

            return jax.grad(loss, has_aux=True)(variables["params"])

        parameter_gradient, (logits, rebuilt) = jax.device_get(gradient(variables, nhwc(real), fakes))
    close_to_golden(logits, "D256.train.real_logits", value)
    close_to_golden(rebuilt["whole"], "D256.train.rec_big", value)
    close_to_golden(rebuilt["small"], "D256.train.rec_small", value)
    close_to_golden(rebuilt["part"], "D256.train.rec_part2", value)
    close_gradients(gcgan_names.to_torch({"params": parameter_gradient}, names), "D256.train", norm, sample)


# DiffAugment and LPIPS


def test_diff_augment_moves_pixels_as_published():
    golden = {name.removeprefix("diffaug."): value for name, value in np.load(GOLDEN / "gan_aux.npz").items()}
    shifts = np.stack([golden["shift_rows"], golden["shift_cols"]], axis=1)
    limit = diff_augment.largest_shift(32)
    draws = diff_augment.Draws(
        brightness=golden["brightness"],
        saturation=golden["saturation"],
        contrast=golden["contrast"],
        shift=((shifts + limit + 0.5) / (2 * limit + 1)).astype(np.float32),  # mid-interval
        applied=np.ones(3, bool),
    )
    augmented = jax.jit(diff_augment.apply)(golden["x"].transpose(0, 2, 3, 1), draws)
    np.testing.assert_allclose(augmented, golden["y"].transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_lpips_measures_as_published(tmp_path):
    vgg_path, heads_path, expected = write_lpips_files(tmp_path)
    variables, distance, description = pretrained.perceptual("lpips_vgg16", vgg_path, heads_path)
    a, b = (np.tanh(normal(tag, (2, 3, 64, 64))).transpose(0, 2, 3, 1) for tag in ("lpips.a", "lpips.b"))
    measure = jax.jit(distance)
    np.testing.assert_allclose(measure(variables, a, b), expected, rtol=2e-6)
    np.testing.assert_allclose(measure(variables, a, a), 0, atol=1e-12)
    assert "LPIPS" in description and "vgg16-397923af.pth" in description and description.count("SHA-256") == 2


# Optimizers and metrics

OPTIMIZERS = np.load(GOLDEN / "optimizers.npz")
METRICS = json.loads((GOLDEN / "metrics.json").read_text())
OUR_NAMES = {
    "accuracy": "accuracy",
    "precision": "macro_precision",
    "recall": "macro_recall",
    "f1_score": "macro_f1",
    "gmean": "g_mean",
    "mcc": "mcc",
}


def trajectory(optimizer, num_steps=60):
    params = normal("opt.init", (16,))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(num_steps):
        updates, state = update(normal(f"opt.grad.{step}", (16,)), state, params)
        params = optax.apply_updates(params, updates)
        yield np.asarray(params)


def test_adam_with_l2_and_halved_rate_follows_pytorch():
    schedule = make_learning_rate("step", 1e-2, num_train_steps=60, decay_steps=20)
    ours = trajectory(make_optimizer("adam", schedule, weight_decay=1e-2))
    for got, expected in zip(ours, OPTIMIZERS["adam_l2_steplr"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_rmsprop_follows_pytorch():
    for got, expected in zip(trajectory(make_optimizer("rmsprop", 2e-4)), OPTIMIZERS["rmsprop"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", range(len(METRICS)))
def test_metrics_are_as_published(case):
    golden = METRICS[case]
    num_classes = max(golden["y_true"] + golden["y_pred"]) + 1
    logits = np.eye(num_classes)[golden["y_pred"]]
    metrics = classification_metrics(golden["y_true"], logits, [str(label) for label in range(num_classes)])
    assert set(golden["metrics"]) == set(OUR_NAMES)
    for theirs, ours in OUR_NAMES.items():
        assert metrics[ours] == pytest.approx(golden["metrics"][theirs], abs=1e-12), theirs


def test_the_published_confusion_matrix_gives_the_published_figures():
    matrix = [[9, 3, 0, 0, 0], [2, 42, 5, 0, 0], [0, 4, 108, 0, 0], [0, 0, 5, 19, 2], [0, 0, 0, 1, 149]]
    labels, predictions = np.repeat(np.indices((5, 5)).reshape(2, -1), np.ravel(matrix), axis=1)
    metrics = classification_metrics(labels, np.eye(5)[predictions], list("abcde"))
    assert metrics["confusion_matrix"] == matrix
    figures = {name: round(100 * metrics[name], 2) for name in ("accuracy", "macro_f1", "g_mean", "mcc")}
    assert figures == {"accuracy": 93.70, "macro_f1": 87.90, "g_mean": 85.24, "mcc": 90.78}
