"""Exact nearest neighbours inside `jit`: methods, storage types, kernels, and the choice among them."""
