import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_rule import GOLDEN, normal, tensor

from dim_jax import losses
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.training.optimizers import make_optimizer
from dim_jax.weights import torch_names

# PyTorch's optimizers look for Triton, whose library crashes the process if TensorFlow was imported before.
sys.modules.setdefault("triton", None)
pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import torch_baseline  # noqa: E402

FIELDS = {"num_classes": 4, "width": 0.25, "stages": ((32,), (44,)), "attention_width": 64, "drop_connect": 0.0}
NAMES = torch_names.lrf_cnn_names(LRFCNN(**FIELDS))
LABELS = np.array([0, 1, 2, 3, 3, 0])


def baseline(dtype=np.float32, **fields):
    """PyTorch's network and our variables with the same weights, ours converted to PyTorch's names and back in."""
    theirs = torch_baseline.LRFCNN(**{**FIELDS, **fields})
    names = torch_names.lrf_cnn_names(LRFCNN(**{**FIELDS, **fields}))
    state = {name: tensor(name, tuple(value.shape)) for name, value in theirs.state_dict().items()}
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), torch_names.to_flax(state, names))
    converted = {name: torch.from_numpy(value.copy()) for name, value in torch_names.to_torch(variables, names).items()}
    counters = {name: torch.zeros((), dtype=torch.long) for name in state if name.endswith(torch_names.STEP_COUNTER)}
    theirs = theirs.to(getattr(torch, np.dtype(dtype).name))
    theirs.load_state_dict({**converted, **counters}, strict=True)
    return theirs, variables


def both_layouts(dtype=np.float32):
    images = normal("torch_baseline.input", (6, 3, 48, 48)).astype(dtype)
    return torch.from_numpy(images), images.transpose(0, 2, 3, 1)


def close(got, expected, tolerance, name=""):
    expected = np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


def test_the_full_network_has_the_published_names_shapes_and_number_of_parameters():
    model = torch_baseline.LRFCNN(num_classes=5)
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_413_190
    published = json.loads((GOLDEN / "lrf_cnn_state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == published


def test_inference_agrees_with_ours():
    theirs, variables = baseline()
    images, ours_images = both_layouts()
    with jax.default_matmul_precision("highest"):
        logits, features = jax.jit(LRFCNN(**FIELDS).apply)(variables, ours_images)
    with torch.no_grad():
        expected_logits, expected_features = theirs.eval()(images)
    close(logits, expected_logits, 1e-5)
    close(features, expected_features, 1e-5)


def test_the_depthwise_variant_has_the_same_tensors():
    theirs, variables = baseline(depthwise=True)
    ours = LRFCNN(**FIELDS, depthwise=True)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    for collection in ("params", "batch_stats"):
        assert jax.tree.map(jnp.shape, variables[collection]) == jax.tree.map(jnp.shape, shapes[collection])
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )


# As in test_parity.py: in float32 some activations fall on the other side of a ReLU.
@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"), [(np.float32, 1e-5, 5e-3), (np.float64, 1e-9, 1e-8)]
)
def test_a_training_pass_agrees_with_ours(dtype, value_tolerance, gradient_tolerance):
    theirs, variables = baseline(dtype)
    images, ours_images = both_layouts(dtype)

    @jax.jit
    def loss_and_gradient(params):
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            model = LRFCNN(**FIELDS, dtype=dtype)
            (logits, features), updates = model.apply(given, ours_images, train=True, mutable=["batch_stats"])
            value = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
            return value, (logits, features, updates["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(dtype is np.float64), jax.default_matmul_precision("highest"):
        (loss, (logits, features, batch_stats)), gradient = loss_and_gradient(variables["params"])
    expected_logits, expected_features = theirs.train()(images)
    expected_loss = torch_baseline.cross_entropy(expected_logits, torch.from_numpy(LABELS))
    expected_loss.backward()

    close(logits, expected_logits.detach(), value_tolerance)
    close(features, expected_features.detach(), value_tolerance)
    close(loss, expected_loss.detach(), value_tolerance)
    for name, value in torch_names.to_torch({"batch_stats": batch_stats}, NAMES).items():
        close(value, theirs.get_buffer(name), value_tolerance, name)
    gradients = torch_names.to_torch({"params": gradient}, NAMES)
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert set(gradients) == set(expected)
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in gradients.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=gradient_tolerance * largest, err_msg=name)


def test_published_fafl_agrees_with_ours():
    logits = 3 * normal("torch_baseline.logits", (6, 4))
    ones = np.ones(6, np.float32)
    ours = losses.published_fafl(logits, LABELS, ones, ones[:4], lambda x: x).mean()
    given = torch.from_numpy(logits).requires_grad_()
    theirs = torch_baseline.published_fafl(given, torch.from_numpy(LABELS))
    theirs.backward()
    close(ours, theirs.detach(), 1e-5)
    gradient = jax.grad(lambda z: losses.published_fafl(z, LABELS, ones, ones[:4], lambda x: x).mean())(logits)
    close(gradient, given.grad, 1e-5)


def test_published_fafl_stays_finite_where_an_answer_is_certain():
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [100.0, -100.0]], requires_grad=True)
    torch_baseline.published_fafl(logits, torch.tensor([0, 0, 1])).backward()
    assert torch.isfinite(logits.grad).all()


def test_train_steps_move_the_weights_as_our_optimizer_does():
    """Three steps in PyTorch; our Adam with L2 makes the same updates from its gradients."""
    theirs, _ = baseline()
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    step = torch_baseline.make_train_step(theirs, mean, std, loss="cross_entropy", learning_rate=1e-3, weight_decay=0.1)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8))
    optimizer = make_optimizer("adam", 1e-3, weight_decay=0.1)

    def flat(tensors):
        return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])

    params = flat(theirs.parameters())
    state, values = optimizer.init(params), []
    for _ in range(3):
        values.append(float(step(images, torch.from_numpy(LABELS))))
        gradient = flat(parameter.grad for parameter in theirs.parameters())
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert values[2] < values[0]
    np.testing.assert_allclose(flat(theirs.parameters()), params, rtol=0, atol=3e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_and_autocast_change_no_more_than_rounding(channels_last):
    theirs, _ = baseline()
    theirs = torch_baseline.placed(theirs, "cpu", channels_last)
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    exact, _ = baseline()
    with torch.no_grad():
        expected, _ = exact.eval()(torch_baseline.normalize(images, mean, std))
    logits, features = torch_baseline.make_eval_step(theirs, mean, std)(images)
    close(logits, expected, 1e-5)
    low_precision, _ = torch_baseline.make_eval_step(theirs, mean, std, bfloat16=True)(images)
    assert low_precision.dtype == features.dtype == torch.float32
    close(low_precision, expected, 0.1)
