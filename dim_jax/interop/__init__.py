"""Import of the published PyTorch code's checkpoints, and export of runs to them."""
