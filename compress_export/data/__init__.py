"""Data sets by name, and folders of images."""
