"""Predictions of a trained classifier for new images."""
