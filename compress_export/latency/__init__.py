"""What a layer costs on a device, measured and cached."""
