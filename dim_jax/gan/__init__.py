"""Generated images: synthesis, pools, metrics and selection."""
