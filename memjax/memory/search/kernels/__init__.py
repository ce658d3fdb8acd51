"""Pallas kernels of the first stage of the grouped search."""
