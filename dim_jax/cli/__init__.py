"""What the commands share: arguments, messages, signals and progress."""
