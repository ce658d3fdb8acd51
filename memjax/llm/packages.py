"""Packages of the extras, imported where they are used: memjax itself works without them."""

import importlib
from types import ModuleType

from memjax.types import ConfigError


def need(module: str, package: str = "", extra: str = "llm") -> ModuleType:
    """Imports a module of an extra.

    Args:
      module: the module's name.
      package: the name to install it by, where that differs from `module`.
      extra: of memjax that has it.

    Returns:
      The module.

    Raises:
      ConfigError: it is not installed; the message names the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        expected = f"installed (pip install 'memjax[{extra}]')"
        raise ConfigError(f"package {package or module}", expected, "not installed") from None
