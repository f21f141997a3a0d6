"""Reads and writes .safetensors files: names and arrays, and nothing that could be run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dim_jax.runs import files


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns name -> array; a file that claims more than it holds is refused before any memory is taken.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such file or damaged.
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
            f"{path} is no whole .safetensors file ({' '.join(str(error).split())}); download or save it again"
        ) from None


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays by name; `format` says, as PyTorch's users expect, that they have PyTorch's layout."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return files.write_bytes(path, save(contiguous, metadata={"format": "pt"}))
