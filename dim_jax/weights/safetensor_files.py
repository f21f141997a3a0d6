"""Reader and writer of .safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np


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


def metadata(path: str | Path, key: str) -> str | None:
    """Returns an entry of a file's metadata; None if there is none, or the file is not a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as archive:
            return (archive.metadata() or {}).get(key)
    except (SafetensorError, OSError, TypeError, AttributeError):
        return None


def encode(tensors: Mapping[str, np.ndarray], more: Mapping[str, str] | None = None) -> bytes:
    """Returns a file of arrays by name, with the metadata `format: pt`, by which readers expect PyTorch's layout.

    Args:
      tensors: name -> array.
      more: further metadata.
    """
    from safetensors.numpy import save

    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return _sorted_metadata(save(contiguous, metadata={"format": "pt", **(more or {})}))


def _sorted_metadata(encoded: bytes) -> bytes:
    """Returns the same file with its metadata in order, so that equal arrays give equal bytes."""
    end = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + encoded[end:]
