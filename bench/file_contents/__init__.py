"""Contents of an exported file: its weights and operators, read from the bytes without any runtime or torch."""
