"""Evaluation of classifiers: predictions, metrics, calibration, and statistics over cases and seeds."""
