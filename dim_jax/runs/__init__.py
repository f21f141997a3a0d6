"""Run directories: their configuration, files and locks."""
