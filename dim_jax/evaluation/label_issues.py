"""Labels that look wrong: images whose out-of-fold predictions confidently disagree with their label."""

from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-9


@dataclass(frozen=True)
class LabelIssues:
    """Result of confident learning on N images of C classes.

    Attributes:
      places: images whose label looks wrong, (M,) int, the most doubtful label first.
      suggested: for each image the class that it is counted as, (N,) int; its label if no class is confident.
      confidence: probability of the label, (N,); low is doubtful.
      thresholds: mean probability of each class over the images with that label, (C,); NaN without images.
      joint: confident joint, counts of images by label (rows) and by the class they are counted as, (C, C) int.
    """

    places: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    thresholds: np.ndarray
    joint: np.ndarray


def find_label_issues(labels: np.ndarray, probability: np.ndarray) -> LabelIssues:
    """Confident learning: an image is counted as the class that it is predicted as at least as surely as others are.

    A class is confident for an image if its probability is at least its mean over the images with that label, which
    allows for classes that the network is generally less sure of, such as rare ones. An image is counted as the most
    probable of its confident classes, and its label looks wrong if that is another class. Doubtful labels are ranked by
    their probability. Predictions must be of models that were not trained on the image.

    Args:
      labels: (N,) int in [0, C).
      probability: out-of-fold probabilities, (N, C).

    Returns:
      The images whose labels look wrong, and the counts.

    Reference: Northcutt et al., "Confident learning: estimating uncertainty in dataset labels", Journal of Artificial
    Intelligence Research 70 (2021), eq. 1 and 2 (confident joint) and section 3.2 (pruning by its off-diagonals, ranked
    by self-confidence).
    """
    labels, probability = np.asarray(labels), np.asarray(probability, np.float64)
    num_classes = probability.shape[1]
    thresholds = np.array([
        probability[labels == label, label].mean() if (labels == label).any() else np.nan
        for label in range(num_classes)
    ])  # fmt: skip
    # The tolerance is for the rounding of means; no image is confident for a class without images.
    is_confident = probability >= thresholds - ROUNDING
    suggested = np.where(is_confident.any(1), np.where(is_confident, probability, -1).argmax(1), labels)
    confidence = probability[np.arange(len(labels)), labels]
    joint = np.zeros((num_classes, num_classes), int)
    counted = is_confident.any(1)
    np.add.at(joint, (labels[counted], suggested[counted]), 1)
    doubtful = np.flatnonzero(suggested != labels)
    return LabelIssues(
        places=doubtful[np.argsort(confidence[doubtful], kind="stable")],
        suggested=suggested,
        confidence=confidence,
        thresholds=thresholds,
        joint=joint,
    )
