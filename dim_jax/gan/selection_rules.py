"""Strictness of a selection of generated images, and the names of its feature spaces."""

from dataclasses import dataclass

LITE0, LITE2, CLASSIFIER = "efficientnet_lite0", "efficientnet_lite2", "classifier"
FEATURES = (LITE2, CLASSIFIER, LITE0)  # spaces in which a selection may measure distances
DEFAULT_FEATURES = LITE2
INCEPTION = "inception"  # reported only


@dataclass(frozen=True)
class Rules:
    """Strictness of a selection.

    Attributes:
      least_probability: minimum probability of an image's class by the classifier, in [0, 1]; lowered to the median
        over real validation images of the class where that is smaller.
      distance_quantile: quantile of the real images' distances to their class, in [0, 1]; images farther away are
        rejected.
      distance_slack: factor of that quantile, above 0; above 1 accepts images that are useful though visibly not real.
      copy_quantile: quantile of the real images' distances to the nearest training image of another case, in [0, 1];
        images closer to a training image are rejected as copies.

    Raises:
      ValueError: a value is out of range.
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
