"""Small weight files as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from golden_rule import normal, tensor
from torch_pickles import File, dictionary, plain, sequence, state_dict

from dim_jax.interop import published_files
from dim_jax.models.gcgan import Discriminator, Generator
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.weights import gcgan_names, torch_names

# As in the variants "test" of the configurations.
SMALL = LRFCNN(num_classes=5, width=0.125, stages=((64,),))
NARROW = 1 / 64


def published_shapes(model):
    """PyTorch name -> shape of every tensor of an LRF-CNN."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    empty = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), jax.eval_shape(model.init, jax.random.key(0), image)
    )
    return {name: value.shape for name, value in torch_names.to_torch(empty, torch_names.lrf_cnn_names(model)).items()}


def small_state_dict(step=7):
    tensors = {name: np.array(tensor(name, shape)) for name, shape in published_shapes(SMALL).items()}
    return published_files.with_counters(tensors, step)


def optimizer(file, moments, step, **group):
    """The opcodes of an optimizer's state_dict(): name of a moment -> arrays in the order of the parameters."""
    count = len(next(iter(moments.values())))
    entries = b"".join(
        plain(key)
        + dictionary({
            "step": file.tensor(np.float32(step)),
            **{name: file.tensor(np.array(values[key])) for name, values in moments.items()},
        })
        for key in range(count)
    )  # fmt: skip
    groups = sequence(dictionary({"lr": plain(1e-4), "params": plain(list(range(count))), **group}))
    return dictionary({"state": b"}(" + entries + b"u", "param_groups": groups})


def tensors_of(file, arrays):
    return state_dict({name: file.tensor(np.array(array)) for name, array in arrays.items()})


def gan_arrays():
    """PyTorch names and arrays of both networks at 64 px."""
    models = {"g": Generator(64, NARROW), "d": Discriminator(64, NARROW)}
    names = {"g": gcgan_names.generator_names(models["g"]), "d": gcgan_names.discriminator_names(models["d"])}

    def init_both(key):
        images, variables = models["g"].init_with_output(key, jnp.zeros((1, 256)), True)
        return {"g": variables, "d": models["d"].init(key, *images, 0, True, method=models["d"].reconstruct)}

    shapes = jax.eval_shape(init_both, jax.random.key(0))
    arrays = {}
    for key, tree in shapes.items():
        empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)
        torch = gcgan_names.to_torch(empty, names[key])
        arrays[key] = {name: np.array(tensor(name, value.shape)) for name, value in torch.items()}
        for name in arrays[key]:
            if name.endswith(("weight_u", "weight_v")):
                vector = normal(name, arrays[key][name].shape)
                arrays[key][name] = vector / np.linalg.norm(vector)
    return arrays


GAN = gan_arrays()
AVERAGE = [0.5 * array for array in published_files.parameters(GAN["g"]).values()]
GAN_STEP = 12


def write_gan(path):
    """A checkpoint of the published GAN loop: both networks, the averaged parameters, both optimizers."""
    file, squares = File(), {}
    parts = {}
    for key, arrays in GAN.items():
        parts[key] = tensors_of(file, published_files.with_counters(arrays, GAN_STEP))
        squares[key] = [np.abs(normal(name, array.shape)) for name, array in published_files.parameters(arrays).items()]
    parts["g_ema"] = sequence(*(file.tensor(np.array(array)) for array in AVERAGE))
    for key in GAN:
        parts[f"opt_{key}"] = optimizer(file, {"square_avg": squares[key]}, GAN_STEP)
    return file.write(path, dictionary(parts), "zip")
