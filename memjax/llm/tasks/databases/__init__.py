"""Databases that a benchmark's statements run in."""
