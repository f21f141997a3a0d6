"""Files of weights, read and written without running anything in them, and the published names of tensors."""
