"""Classifying new images with a trained run."""
