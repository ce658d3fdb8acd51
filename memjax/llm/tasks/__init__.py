"""Benchmarks for language-model agents: tasks, their sandbox and their grading.

`loading.load(name, folder)` reads any of them. This file imports nothing, as the sandbox's inner side starts
from here with the standard library alone.
"""
