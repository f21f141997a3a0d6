"""Linear classifier of a frozen network's features: multinomial logistic regression."""

import flax.linen as nn
import jax

from dim_jax.models.layers import Linear


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
