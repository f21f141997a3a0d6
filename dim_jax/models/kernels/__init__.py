"""Convolutions and resampling in the form that each platform runs fastest."""
