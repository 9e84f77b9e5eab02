"""Captured programs in int8 (calibrated on real images) and in float16."""
