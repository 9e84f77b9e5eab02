"""Captured programs in int8: calibration on real images, post-training quantization."""
