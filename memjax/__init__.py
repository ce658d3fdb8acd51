"""memjax: external, retrievable memory for reinforcement-learning agents in JAX."""

__version__ = "0.1.0"
