"""A run on disk: its directory, checkpoints, metrics and progress. Knows no section of a config."""

from memjax.runs.frame import load

__all__ = ["load"]
