"""The simulated ARM CPU: QEMU with a counting plugin of ours, and what a guest sees of the core that it runs on."""
