"""Latencies of layers on a device, measured and cached."""
