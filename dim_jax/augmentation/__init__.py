"""Augmentation of histology images and of what a discriminator sees."""
