"""Augmentation of histology images and of a discriminator's inputs."""
