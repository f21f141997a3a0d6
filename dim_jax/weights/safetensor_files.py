"""Reader and writer of .safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dim_jax.runs import files


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file by name; a header that claims more than the file holds allocates no memory.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a .safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a complete .safetensors file ({' '.join(str(error).split())}); download or save it again"
        ) from None


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays by name, with the metadata `format: pt`, by which readers expect PyTorch's layout."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return files.write_bytes(path, save(contiguous, metadata={"format": "pt"}))
