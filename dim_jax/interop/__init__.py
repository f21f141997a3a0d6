"""Between published PyTorch checkpoints and Flax trees."""
