"""What is owed on an accelerator, measured by one command: `python -m benchmarks.device`."""
