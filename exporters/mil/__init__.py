"""An interpreter of CoreML's ML programs: .mlpackage -> logits, on systems that have no Core ML."""
