"""Product quantization of weights, and its storage."""
