"""Benchmarks for language-model agents: their tasks and how attempts are graded.

`loading.load(name, folder)` reads any of them.
"""
