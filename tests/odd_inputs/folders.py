"""Layouts of folders that are not one folder per class."""
