"""A run of a language-model agent: its loop, state, memory and log."""
