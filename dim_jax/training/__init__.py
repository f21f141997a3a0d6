"""Training state, optimizers, the training loop, checkpoints, and how devices and hosts work together."""
