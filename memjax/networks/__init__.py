"""Flax (linen) networks: encoders, actor and critic, autoencoders, the Decision Transformer."""
