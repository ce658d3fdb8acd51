"""A sandbox that runs programs written by a model, apart from this process and this machine's files."""
