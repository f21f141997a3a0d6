"""Convolutions and resampling, each by the fastest algorithm for its platform."""
