"""The programs that run a file where Python does not, and what builds them (docs/runner.md)."""
