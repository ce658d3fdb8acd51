"""Re:Frame (arXiv 2508.19344): an offline policy that retrieves from a few expert trajectories."""
