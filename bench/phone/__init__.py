"""Measurement on a phone through adb."""
