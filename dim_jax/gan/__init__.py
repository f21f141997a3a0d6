"""Generated images: drawing them, pools, metrics and selection."""
