"""Pure train and evaluation steps, one file per trainer."""
