"""Linear classifier of a frozen network's features: multinomial logistic regression."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.layers import Linear


def tau_normalize(head: Mapping[str, jax.Array], tau: float) -> dict[str, jax.Array]:
    """tau-normalisation: the weights w of each class become w / |w|^tau.

    The weights of frequent classes are longer; equal lengths make decisions fairer to rare classes. The bias is kept,
    where the published classifier has none.

    Args:
      head: `kernel` (F, C) and `bias` (C,) of a last layer.
      tau: strength, usually in [0, 1], chosen on validation images; 0 changes nothing, 1 makes all lengths 1.

    Returns:
      the head with the new `kernel`.

    Reference: Kang et al., "Decoupling representation and classifier for long-tailed recognition", ICLR 2020, section
    4.2, eq. 5.
    """
    norm = jnp.linalg.norm(head["kernel"], axis=0)
    return {**head, "kernel": head["kernel"] / jnp.where(norm > 0, norm, 1.0) ** tau}


class LinearClassifier(nn.Module):
    """One fully connected layer (7,686 parameters for 6 classes of 1280 features). No feature map, hence no Grad-CAM.

    Attributes:
      num_classes: number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, features: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies standardised features.

        Args:
          features: (N, F) float32, normalised by the statistics of the training images' features.
          train, example_keys: ignored; here for the signature that all classifiers share.

        Returns:
          logits (N, num_classes) and the features themselves.
        """
        del train, example_keys
        return Linear(self.num_classes, name="head")(features), features
