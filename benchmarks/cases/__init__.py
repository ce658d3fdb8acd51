"""The cases, one module per area. A module registers its cases on import; adding one here is all it takes."""

from importlib import import_module

MODULES = (
    "data",
    "memory",
    "memrl",
    "offline",
    "reads",
    "retrieval",
    "retrieval_real",
    "retrieval_stages",
    "retrieval_sweep",
    "training",
)


def load() -> dict[str, str]:
    """Imports every module of cases; returns those that need something not installed, with its name."""
    failed = {}
    for name in MODULES:
        try:
            import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            failed[name] = error.name or str(error)
    return failed
