"""A run from end to end, a stage a file."""
