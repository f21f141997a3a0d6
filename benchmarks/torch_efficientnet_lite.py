"""EfficientNet-Lite of the package efficientnet-lite-pytorch, as the baseline of benchmarks and of one test.

Nothing of dim_jax is imported here, so that the baseline cannot inherit its choices.
"""

from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor


class EfficientNetLite(EfficientNet):
    """The package's network; its call returns features beside logits, as torch_baseline.LRFCNN's does.

    Reference: Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019.
    """

    @classmethod
    def named(cls, network: str, num_classes: int) -> "EfficientNetLite":
        """Returns a network for images of any size that drops nothing in training.

        Args:
          network: "efficientnet_lite0" to "efficientnet_lite4".
          num_classes: number of logits.
        """
        options = {"num_classes": num_classes, "image_size": None, "dropout_rate": 0.0, "drop_connect_rate": 0.0}
        return cls.from_name(network.replace("_", "-"), **options)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classifies normalised images (N, 3, H, W).

        Returns:
          logits (N, num_classes) and features (N, 1280).
        """
        features = self.extract_features(images).mean((2, 3))
        return self._fc(features), features
