"""Deterministic inputs and weights of the golden numbers (tests/golden/README.md)."""

import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def rng(tag: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode())))


def normal(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng(tag).standard_normal(shape).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a parameter or buffer called `name` in PyTorch, in PyTorch's layout."""
    values = normal(name, shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_mean":
        return np.float32(0.1) * values
    if leaf == "running_var":
        return 1 + np.float32(0.5) * np.abs(values)
    if leaf == "bias":
        return np.float32(0.1) * values
    if values.ndim == 1:
        return np.zeros(shape, np.float32) if values.size == 1 else 1 + np.float32(0.1) * values
    if values.ndim == 2:
        return np.float32(0.01) * values
    return values * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def lite_images(network: str, side: int) -> np.ndarray:
    """One image (1, H, W, 3), normalised, for the golden numbers of an EfficientNet-Lite with its published weights."""
    return np.tanh(normal(f"{network}.{side}", (1, side, side, 3)))


def eight_samples(name: str, value: np.ndarray) -> np.ndarray:
    """The eight values of a PyTorch-layout tensor that the golden files record."""
    flat = value.flatten()
    return flat[rng(name + str(flat.size)).integers(0, flat.size, 8)]
