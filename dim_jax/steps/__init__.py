"""Training and evaluation steps as pure functions of one device's shard."""
