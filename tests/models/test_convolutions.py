"""Every algorithm against XLA's own convolution, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.models.batch_norm import BatchNorm, fused_batch_norms, normalize_batch
from dim_jax.models.kernels import convolutions, platforms, resizing, winograd
from dim_jax.models.layers import DepthwiseSeparable, fused_pointwise

SHAPE = (2, 9, 11, 4)


def reference(x, kernel, stride=1, dilation=1, groups=1):
    margin = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(margin, margin)] * 2, rhs_dilation=(dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups, precision="highest",
    )  # fmt: skip


def draw(*shape):
    return jnp.asarray(np.random.default_rng(len(shape) + shape[-1]).normal(size=shape).astype(np.float32))


def assert_same(ours, theirs, x, kernel):
    """Compares values, and both gradients of a weighted sum of the outputs."""
    (value, *gradients), (expected, *expected_gradients) = (values_and_gradients(f, x, kernel) for f in (ours, theirs))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for got, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def values_and_gradients(form, x, kernel):
    """Outputs and both gradients of a weighted sum of them, in one program: op by op, compiling takes much longer."""

    @jax.jit
    def outputs(x, kernel):
        value, pull = jax.vjp(form, x, kernel)
        return value, *pull(draw(*value.shape).astype(jnp.bfloat16).astype(value.dtype))  # no rounding of its own

    return outputs(x, kernel)


# The last kernels are as large as the map, or larger.
DENSE = [(1, 1), (3, 1), (3, 3), (3, 4), (5, 2), (5, 5), (3, 6), (3, 9), (3, 20)]


@pytest.mark.parametrize(("size", "dilation"), DENSE)
def test_dense(size, dilation):
    assert_same(
        lambda x, k: convolutions.convolution(x, k, dilation),
        lambda x, k: reference(x, k, dilation=dilation),
        draw(*SHAPE),
        draw(size, size, 4, 6),
    )


@pytest.mark.parametrize(
    ("algorithm", "size", "dilation"),
    [
        (algorithm, size, dilation)
        for algorithm in convolutions.Algorithm
        for size, dilation in DENSE
        if size == 3 or algorithm != convolutions.Algorithm.WINOGRAD  # which is for 3x3 kernels
    ],
)
def test_every_algorithm_matches_xla_on_cpu(algorithm, size, dilation, monkeypatch):
    monkeypatch.setattr(convolutions, "cpu_algorithm", lambda *_: algorithm)
    test_dense(size, dilation)


@pytest.mark.parametrize(
    ("algorithm", "shape", "dilation", "dtype"),
    [
        ("DIRECT", (8, 24, 24, 16), 3, "float32"),  # few channels
        ("DIRECT", (8, 38, 38, 64), 13, "float32"),  # tiles overhang too far, and accumulation costs too much
        ("WINOGRAD", (8, 24, 24, 64), 3, "float32"),
        ("WINOGRAD", (8, 12, 12, 256), 3, "float32"),
        ("TAP_BY_TAP", (8, 12, 12, 256), 5, "float32"),  # tiles would overhang the edge
        ("TAP_BY_TAP", (8, 6, 6, 384), 5, "float32"),  # outer taps are mostly on padding
        ("DIRECT", (8, 24, 24, 16), 3, "bfloat16"),
        ("TAP_BY_TAP", (8, 38, 38, 64), 13, "bfloat16"),  # in bfloat16 matmuls are fast, convolutions are not
        ("WINOGRAD", (8, 24, 24, 64), 3, "bfloat16"),
    ],
)
def test_the_algorithm_on_cpu_depends_on_shape_and_dtype(algorithm, shape, dilation, dtype):
    x, kernel = jnp.zeros(shape, dtype), jnp.zeros((3, 3, shape[-1], shape[-1]), dtype)
    assert convolutions.cpu_algorithm(x, kernel, dilation).name == algorithm


@pytest.mark.parametrize("runtime", ["here", "accelerator"])
@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 3)])
def test_depthwise(size, dilation, runtime):
    with platforms.traced_for(runtime):
        assert_same(
            lambda x, k: convolutions.depthwise_convolution(x, k[:, :, 0], dilation),
            lambda x, k: reference(x, k, dilation=dilation, groups=4),
            draw(*SHAPE),
            draw(size, size, 1, 4),
        )


def test_the_gradient_of_depthwise_kernels_is_the_same_on_gpu_and_tpu():
    slices, cotangent = [draw(*SHAPE) for _ in range(9)], draw(*SHAPE)
    expected = np.stack([np.einsum("nhwc,nhwc->c", pixels, cotangent) for pixels in slices])
    for summed in (convolutions._sum_of_all_taps, convolutions._sum_by_tap):
        np.testing.assert_allclose(summed(slices, cotangent), expected, rtol=1e-4, atol=1e-4)


def test_pointwise():
    assert_same(
        lambda x, k: convolutions.pointwise_convolution(x, k[0, 0]),
        reference,
        draw(*SHAPE),
        draw(1, 1, 4, 6),
    )


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2), (3, 3)])
def test_strided(size, stride):
    assert_same(
        lambda x, k: convolutions.strided_convolution(x, k, stride),
        lambda x, k: reference(x, k, stride=stride),
        draw(*SHAPE),
        draw(size, size, 4, 6),
    )


def unpadded(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=convolutions.LAYOUT)


def halved(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=convolutions.LAYOUT)


def doubled(x, kernel):
    return reference(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel)


# The last kernel covers the map: one matmul.
@pytest.mark.parametrize(("size", "height", "width"), [(4, 9, 11), (2, 3, 2), (3, 5, 3), (4, 4, 4)])
def test_valid(size, height, width):
    assert_same(convolutions.valid_convolution, unpadded, draw(2, height, width, 4), draw(size, size, 4, 6))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (2, 2)])
def test_halving(height, width):
    assert_same(resizing.halving_convolution, halved, draw(2, height, width, 4), draw(4, 4, 4, 6))


# Maps below 8x8 are upsampled first, larger ones are convolved by phases.
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 13), (4, 4), (1, 3)])
def test_doubling(height, width):
    assert_same(resizing.doubling_convolution, doubled, draw(2, height, width, 4), draw(3, 3, 4, 6))


@pytest.mark.parametrize("dilation", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(("height", "width"), [(9, 11), (12, 6), (1, 2)])
def test_winograd(height, width, dilation):
    x, kernel = draw(2, height, width, 4), draw(3, 3, 4, 6)
    ours = jax.jit(lambda x, k: winograd.winograd_convolution(x, winograd.transform_kernel(k), dilation))(x, kernel)
    np.testing.assert_allclose(ours, reference(x, kernel, dilation=dilation), rtol=1e-5, atol=1e-5)


def relative_error(got, expected):
    """Root mean square of the differences, relative to the expected values."""
    return float(jnp.linalg.norm(got.astype(jnp.float32) - expected) / jnp.linalg.norm(expected))


def errors_in_bfloat16(ours, theirs, x, kernel):
    """Relative errors of values and both gradients of `ours` in bfloat16 against `theirs` in float32."""
    x, kernel = (array.astype(jnp.bfloat16) for array in (x, kernel))
    got = values_and_gradients(ours, x, kernel)
    assert all(array.dtype == jnp.bfloat16 for array in got)
    exact = values_and_gradients(theirs, *(array.astype(jnp.float32) for array in (x, kernel)))
    return [relative_error(*pair) for pair in zip(got, exact, strict=True)]


@pytest.mark.parametrize("algorithm", convolutions.Algorithm)
@pytest.mark.parametrize("dilation", [1, 5])
def test_every_algorithm_stays_near_float32_in_bfloat16(algorithm, dilation, monkeypatch):
    """Rounding to bfloat16 has a mean error of 0.17 %; Winograd and the sum of taps round more than once."""
    monkeypatch.setattr(convolutions, "cpu_algorithm", lambda *_: algorithm)
    errors = errors_in_bfloat16(
        partial(convolutions.convolution, dilation=dilation),
        partial(reference, dilation=dilation),
        draw(2, 12, 12, 64),
        draw(3, 3, 64, 32),
    )
    assert max(errors) < {"DIRECT": 0.003, "TAP_BY_TAP": 0.005, "WINOGRAD": 0.01}[algorithm.name], errors


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (lambda x, k: convolutions.pointwise_convolution(x, k[0, 0]), reference, (1, 1, 4, 6)),
        (
            lambda x, k: convolutions.depthwise_convolution(x, k[:, :, 0], 2),
            partial(reference, dilation=2, groups=4),
            (5, 5, 1, 4),
        ),
        (partial(convolutions.strided_convolution, stride=2), partial(reference, stride=2), (7, 7, 4, 6)),
        (convolutions.valid_convolution, unpadded, (4, 4, 4, 6)),
    ],
)
def test_other_convolutions_stay_near_float32_in_bfloat16(ours, theirs, shape):
    errors = errors_in_bfloat16(ours, theirs, draw(*SHAPE), draw(*shape))
    assert max(errors) < 0.005, errors


def test_matmuls_of_bfloat16_stay_in_bfloat16_on_cpu():
    """Widened operands take twice the time on CPUs with bfloat16 instructions."""
    x, kernel = (draw(*shape).astype(jnp.bfloat16) for shape in (SHAPE, (4, 6)))
    gradients = jax.grad(lambda x, k: convolutions.pointwise_convolution(x, k).sum().astype(jnp.float32), (0, 1))
    products = [line for line in jax.jit(gradients).lower(x, kernel).as_text().splitlines() if "dot_general" in line]
    assert products
    for line in products:
        assert line.count("xbf16>") == 2 and line.count("xf32>") == 1, line


@pytest.mark.parametrize("dilation", [1, 3])
def test_winograd_is_used_for_many_channels_on_cpu_only(dilation, monkeypatch):
    x, kernel = draw(2, 24, 24, 64), draw(3, 3, 64, 64)
    weights = draw(2, 24, 24, 64)

    def value_and_gradients(form):
        return jax.jit(jax.value_and_grad(lambda x, k: (form(x, k, dilation=dilation) * weights).sum(), (0, 1)))

    ours = value_and_gradients(convolutions.convolution)
    for got, expected in zip(
        *(jax.tree.leaves(form(x, kernel)) for form in (ours, value_and_gradients(reference))), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    monkeypatch.setattr(platforms, "runs_on_cpu", lambda: False)
    anywhere = value_and_gradients(convolutions.convolution)
    convolutions_in = {
        platform: str(anywhere.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()).count("convolution(")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert convolutions_in == {"cpu": 0, "cuda": 3, "tpu": 3}


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        (convolutions.convolution, reference, 3),
        (convolutions.valid_convolution, unpadded, 4),
        (convolutions.valid_convolution, unpadded, 6),
        (resizing.halving_convolution, halved, 4),
        (resizing.doubling_convolution, doubled, 3),
    ],
)
def test_second_order_gradients_match_xla(ours, theirs, size):
    """As needed by a gradient penalty."""
    x, kernel = draw(1, 8, 8, 2), draw(size, size, 2, 2)

    def penalty(convolve):
        return lambda k: jnp.square(jax.grad(lambda x: jnp.sin(convolve(x, k)).sum())(x)).sum()

    got, expected = (jax.jit(jax.grad(penalty(f)))(kernel) for f in (ours, theirs))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("convolve", "size"),
    [
        (lambda x, k: convolutions.convolution(x, k, 3), 3),
        (convolutions.valid_convolution, 4),
        (resizing.halving_convolution, 4),
        (resizing.doubling_convolution, 3),
    ],
)
def test_gradients_are_the_same_in_a_scan(convolve, size):
    """The training loop runs steps in a scan."""
    x, kernel = draw(2, 8, 10, 4), draw(size, size, 4, 4)

    def gradient(k):
        return jax.grad(lambda k: jnp.square(convolve(x, k)).sum())(k)

    scanned = jax.jit(lambda k: jax.lax.scan(lambda carry, _: (carry, gradient(carry)), k, None, length=2)[1])(kernel)
    np.testing.assert_allclose(scanned[1], jax.jit(gradient)(kernel), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("runtime", ["here", "accelerator"])
def test_fused_separable_layers_equal_the_single_layers(runtime):
    layers = [DepthwiseSeparable(features) for features in (3, 5)]
    x = draw(*SHAPE)
    variables = [layer.init(jax.random.key(number), x) for number, layer in enumerate(layers)]
    outputs = []
    for weights in (variables_of["params"] for variables_of in variables):
        gained = x * weights["depthwise"]["kernel"].reshape(-1) + weights["depthwise"]["bias"]
        outputs.append(gained @ weights["pointwise"]["kernel"][0, 0] + weights["pointwise"]["bias"])
    bound = [layer.bind(tree) for layer, tree in zip(layers, variables, strict=True)]
    with platforms.traced_for(runtime):
        fused = fused_pointwise(bound, x)
    np.testing.assert_allclose(fused, jnp.concatenate(outputs, -1), rtol=1e-5, atol=1e-5)


def test_on_accelerators_a_bias_before_a_norm_has_no_gradient_and_the_rest_has_the_same():
    x, weights = draw(*SHAPE) * 3 + 1, draw(2, 9, 11, 3) ** 2
    layer = DepthwiseSeparable(3, 3, before_norm=True)
    variables = layer.init(jax.random.key(0), x)

    def loss(variables):
        y = layer.apply(variables, x)
        return (normalize_batch(y, jnp.ones(3), jnp.zeros(3), 1e-5, None)[0] * weights).sum()

    expected = jax.grad(loss)(variables)["params"]
    with platforms.traced_for("accelerator"):
        gradients = jax.grad(lambda variables: loss(variables))(variables)["params"]
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient["kernel"], expected[name]["kernel"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(expected[name]["bias"], 0, atol=1e-3)
        np.testing.assert_array_equal(gradient["bias"], 0)


def test_statistics_of_devices_are_combined_without_cancellation():
    """Means far from zero, and as many as eight devices; one collective."""
    x = np.random.default_rng(0).normal(1000, 0.1, (8, 4, 3, 3, 5)).astype(np.float32)
    x += np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1, 1)
    with platforms.traced_for("accelerator"):
        statistics = jax.pmap(lambda x: normalize_batch(x, jnp.ones(5), jnp.zeros(5), 1e-5, "devices")[1:], "devices")
        mean, var = statistics(x)
        program = statistics.lower(x).as_text()
    np.testing.assert_allclose(mean[3], x.astype(np.float64).mean((0, 1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(var[3], x.astype(np.float64).var((0, 1, 2, 3)), rtol=1e-3)
    assert program.count("stablehlo.all_gather") == 1 and "all_reduce" not in program


def test_the_gradient_of_batch_normalisation_matches_autodiff():
    x, scale, bias = draw(4, 3, 3, 6) * 3 + 1, 1 + 0.1 * jnp.arange(6.0), jnp.arange(6.0)
    weights = draw(4, 3, 3, 6) ** 2

    def definition(x, scale, bias):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    def ours(x, scale, bias):
        return normalize_batch(x, scale, bias, 1e-5, None)[0]

    np.testing.assert_allclose(ours(x, scale, bias), definition(x, scale, bias), rtol=1e-4, atol=1e-5)
    gradients = [
        jax.jit(jax.grad(lambda *arguments, f=f: (f(*arguments) * weights).sum(), (0, 1, 2)))(x, scale, bias)
        for f in (ours, definition)
    ]
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)

    def penalty(f, x, scale):
        return jnp.square(jax.grad(lambda x: (jnp.sin(f(x, scale, bias)) * weights).sum())(x)).sum()

    seconds = [jax.jit(jax.grad(partial(penalty, f), (0, 1)))(x, scale) for f in (ours, definition)]
    for got, expected in zip(*seconds, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("train", [False, True])
def test_fused_batch_norms_equal_the_single_ones(train):
    x = draw(4, 3, 3, 6) * 3 + 1
    parts = jnp.split(x, 2, axis=-1)
    bound = []
    for number in range(2):
        variables = jax.tree.map(
            lambda leaf, number=number: leaf + 0.1 * (1 + number) + 0.01 * jnp.arange(3.0),
            BatchNorm().init(jax.random.key(0), parts[number], True),
        )
        bound.append((BatchNorm(), variables))
    alone = [
        layer.apply(v, part, train, mutable=["batch_stats"]) for (layer, v), part in zip(bound, parts, strict=True)
    ]
    modules = [layer.bind(v, mutable=["batch_stats"]) for layer, v in bound]
    fused = fused_batch_norms(modules, x, train)
    np.testing.assert_allclose(fused, jnp.concatenate([y for y, _ in alone], -1), rtol=1e-5, atol=1e-5)
    for module, (_, updates) in zip(modules, alone, strict=True):
        for name in ("mean", "var"):
            expected = updates["batch_stats"][name]
            np.testing.assert_allclose(module.variables["batch_stats"][name], expected, rtol=1e-5, atol=1e-6)
