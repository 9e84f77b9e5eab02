"""Latency by layer."""
