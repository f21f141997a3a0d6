"""Command lines: arguments, messages, exit codes, signals and progress."""
