"""TensorFlow Datasets builders of EBHI and EBHI-Seg; importing a module registers its dataset.

The modules need TensorFlow, so `tfds_source` imports them only when their dataset is requested.
"""

NAMES = ("ebhi", "ebhi_seg")
