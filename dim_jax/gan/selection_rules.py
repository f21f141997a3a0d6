"""How strict a selection of generated images is, and the feature spaces that it may measure distances in."""

from dataclasses import dataclass

LITE0, CLASSIFIER = "efficientnet_lite0", "classifier"


@dataclass(frozen=True)
class Rules:
    """How strict to be.

    Attributes:
      least_probability: of its class, by the classifier, in [0, 1]; or the median that real validation images of the
        class get, where that is less: nothing generated need look more like its class than real images do.
      distance_quantile: of the real images' distances to their class; what lies farther is no such tissue.
      distance_slack: multiplies that quantile: above 1 for images that are useful though visibly not real.
      copy_quantile: of the distances of real images to the nearest training image of another case; what comes nearer is
        a copy.
    """

    least_probability: float = 0.5
    distance_quantile: float = 0.95
    distance_slack: float = 1.0
    copy_quantile: float = 0.01

    def __post_init__(self) -> None:
        for name in ("least_probability", "distance_quantile", "copy_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1")
        if not self.distance_slack > 0:
            raise ValueError(f"distance_slack={self.distance_slack} must be above 0")
