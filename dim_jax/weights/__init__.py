"""Weight files, read without executing anything in them and written, and maps of PyTorch names to Flax paths."""
