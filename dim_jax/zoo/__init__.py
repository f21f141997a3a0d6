"""Trained models that come with the package: a folder each, and an index."""
