"""What a language-model agent is made of: messages, replies, embeddings, tasks and outcomes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


class Reply(NamedTuple):
    """What a model answered to one conversation."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str = "stop"  # "stop", "length", "content_filter"
    cached: bool = False  # taken from a cache or a recording: nothing was spent


class Chat(Protocol):
    """A chat model. Safe to call from several threads."""

    name: str  # of the model, as results report it

    def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int
    ) -> Reply:
        """Asks for one reply.

        Args:
          messages: the conversation, the last turn the user's.
          max_tokens: of the reply, thoughts included.
          temperature: 0 for the likeliest reply.
          seed: of the draw; what is not drawn at random does not depend on it.

        Returns:
          The reply, without what the model thought before it.

        Raises:
          ChatError: no reply came, after the retries that the client makes.
        """
        ...


class Embedder(Protocol):
    """Turns texts into unit vectors. Safe to call from several threads."""

    name: str  # of the model; memories of one embedder are refused to another
    dim: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, rows of norm one."""
        ...


class ChatError(RuntimeError):
    """A request that failed for good: what was asked of whom, and why it failed."""

    def __init__(self, what: str, *, kind: str):
        super().__init__(what)
        self.kind = kind  # "down", "timeout", "rate_limit", "refused", "malformed", "budget", "auth"


class Outcome(NamedTuple):
    """How one attempt at one task ended."""

    task_id: str
    success: bool
    score: float  # 0 to 1, what the benchmark counts
    trajectory: str  # what was done, as text that may be shown to a model again
    feedback: str = ""  # what the environment said at the end: an error, a failed test
    steps: int = 1  # turns of the conversation
    prompt_tokens: int = 0
    completion_tokens: int = 0


# (messages) -> reply: a chat model with its settings bound, counted and cached by whoever runs the task
Ask = Callable[[Sequence[Message]], Reply]


class Task(Protocol):
    """One task of a benchmark."""

    id: str  # unique in its benchmark and stable between runs
    intent: str  # what is embedded and compared: the description of the task alone

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Plays the task once.

        Args:
          ask: gives the model's reply to a conversation.
          memories: a block of text to show the model, "" for none. It is data and is never executed.

        Returns:
          How it ended. Whatever the model does wrong is an outcome, not an error.

        Raises:
          ChatError: as `ask` does.
        """
        ...


class Benchmark(NamedTuple):
    """Tasks of a benchmark, in a fixed order."""

    name: str
    train: Sequence[Task]  # runtime learning
    held_out: Sequence[Task]  # transfer with the memory frozen; may be empty
    about: dict[str, Any]  # source, sizes, what was left out and why


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """[n, D] f32 with rows of norm one. Raises ValueError where a row is zero or not finite."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0.0):
        raise ValueError("a vector that is zero or not finite")
    return (vectors / norms).astype(np.float32)
