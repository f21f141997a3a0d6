"""Metrics, their intervals, calibration, and trained classifiers to evaluate."""
