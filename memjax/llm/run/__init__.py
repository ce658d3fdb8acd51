"""A run of a language-model agent: its config, loop, memory, experience log and metrics."""
