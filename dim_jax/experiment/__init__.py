"""The DIM experiment: its arms, planned runs, added images, archived predictions and results."""
