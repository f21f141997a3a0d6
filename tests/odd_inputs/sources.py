"""Sources that change after they were prepared."""
