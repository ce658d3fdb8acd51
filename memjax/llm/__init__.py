"""Agents that are language models: `TextMemory` for a loop of your own; runs of benchmarks; their clients."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memjax.llm.text_memory import TextMemory

__all__ = ["TextMemory"]


def __getattr__(name: str) -> Any:
    # Why not imported above: a sandbox starts a module of this package, and must not wait for JAX.
    if name in __all__:
        from memjax.llm import text_memory

        return getattr(text_memory, name)
    raise AttributeError(f"module 'memjax.llm' has no attribute '{name}'")
