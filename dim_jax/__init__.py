"""Image classifiers for badly imbalanced histology: GCGAN images, the FAFL loss and LRF-CNN, in JAX."""

__version__ = "0.1.0"
