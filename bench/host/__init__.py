"""Measurement on this machine."""
