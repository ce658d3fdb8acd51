"""Flax (linen) networks: encoders, actor-critic, autoencoder."""
