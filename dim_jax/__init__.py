"""Image classifiers for badly imbalanced histology, in JAX.

Contains the parts of the DIM framework: a GAN that generates images of rare classes (GCGAN), a loss that adapts to
class frequency (FAFL), a light CNN (LRF-CNN), and baselines for each. `python -m dim_jax` lists the commands. For use
from Python, see `dim_jax.load`, dim_jax.losses, dim_jax.models, dim_jax.augmentation and `dim_jax.report.load_curves`.

Reference: Yuan et al., "Dual-level imbalance mitigation for single-FoV colorectal histopathology image classification",
IEEE JBHI 2026.
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Imports `load` when it is first used, since it needs JAX and `--help` must be quick."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dim_jax.interop.loading import load

    return load
