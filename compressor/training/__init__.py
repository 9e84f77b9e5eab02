"""Training loop, fine-tuning schedules, evaluation."""
