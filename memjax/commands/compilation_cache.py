"""What XLA compiled, kept on disk: the first start of a program takes minutes, the next one seconds."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


@contextlib.contextmanager
def use_compilation_cache(enabled: bool = True) -> Iterator[None]:
    """Sets for a `with` block whether compiled programs are read from and written to disk.

    The folder is `~/.cache/memjax/jax` unless JAX_COMPILATION_CACHE_DIR names another. With `enabled` False
    nothing is read or written anywhere, whatever that variable says. Afterwards all is as it was before.
    """
    name, value = "jax_enable_compilation_cache", False
    if enabled:
        named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        name, value = "jax_compilation_cache_dir", named or str(Path.home() / ".cache" / "memjax" / "jax")
    before = getattr(jax.config, name)
    _set(name, value)
    try:
        yield
    finally:
        _set(name, before)


def _set(name: str, value: Any) -> None:
    """Sets an option of JAX's cache."""
    if getattr(jax.config, name) != value:
        jax.config.update(name, value)
        reset_cache()  # JAX looks only once whether it has a cache, and where
