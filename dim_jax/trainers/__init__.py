"""Trainers: they build the task of the training loop from a configuration."""
