"""MemRL (arXiv 2601.03192): a frozen policy that improves at run time by learning which memories help."""
