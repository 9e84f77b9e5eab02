"""A module for each format: it writes a captured program as a file, and runs such a file in its runtime."""
