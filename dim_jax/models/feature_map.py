"""The last feature map of a network, exposed for Grad-CAM."""

import flax.linen as nn
import jax

FEATURE_MAP = "feature_map"  # name among the intermediates and the perturbations


def expose_feature_map(network: nn.Module, x: jax.Array) -> jax.Array:
    """Sows and perturbs the last feature map of a network (see steps.grad_cam); values do not change.

    Args:
      network: the bound network.
      x: its last feature map (N, H, W, C).

    Returns:
      x, plus the perturbation if one is passed.
    """
    if network.is_initializing():
        return x
    network.sow("intermediates", FEATURE_MAP, x)
    return network.perturb(FEATURE_MAP, x)
