"""What XLA compiled, kept on disk: the first start of a program takes minutes, the next one seconds."""

import os
from pathlib import Path

import jax


def use_compilation_cache(enabled: bool = True) -> None:
    """Sets for this process whether compiled programs are read from and written to disk.

    The folder is `~/.cache/memjax/jax` unless JAX_COMPILATION_CACHE_DIR names another. With `enabled` False
    nothing is read or written anywhere, whatever that variable says.
    """
    if not enabled:
        jax.config.update("jax_enable_compilation_cache", False)
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "memjax" / "jax"))
