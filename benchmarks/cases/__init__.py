"""The cases, one module per area. A module registers its cases on import; adding one here is all it takes."""

from importlib import import_module

MODULES = ("memory", "training")


def load() -> None:
    """Imports every module of cases that exists."""
    for name in MODULES:
        try:
            import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
