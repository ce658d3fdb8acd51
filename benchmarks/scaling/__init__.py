"""What a memory of any size costs on paper, beside what was measured: docs/scaling.md."""
