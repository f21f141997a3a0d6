"""Trainers: from a configuration to a task for the training loop."""
