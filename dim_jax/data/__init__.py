"""Images on disk to batches: manifest, split, sampler and the pipelines that turn rows into pixels."""
