"""File -> measurement -> verdict. Knows the exporters and nobody else."""
