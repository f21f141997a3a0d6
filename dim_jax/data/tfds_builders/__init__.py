"""Sets published for this problem that TensorFlow Datasets does not know: importing a module registers its set there.

The modules need TensorFlow, so they are imported by `tfds_source` only when their set is asked for.
"""

NAMES = ("ebhi", "ebhi_seg")
