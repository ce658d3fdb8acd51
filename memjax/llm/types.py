"""Types of the language-model side: messages, replies, embedders, tasks, outcomes and benchmarks."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


class Reply(NamedTuple):
    """A model's answer to one conversation."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str = "stop"  # "stop", "length", "content_filter"
    cached: bool = False  # taken from a cache or a recording, so that nothing was spent


class Chat(Protocol):
    """A chat model. Safe to call from several threads."""

    name: str  # of the model, as results report it

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        choices: Sequence[str] = (),
    ) -> Reply:
        """Asks for one reply.

        Args:
          messages: the conversation, the last turn the user's.
          max_tokens: of the reply, thoughts included.
          temperature: of the sampling; 0 takes the most likely tokens.
          seed: of the sampling; of no effect at temperature 0.
          choices: the texts that the reply should be one of; none: any reply. Passed only where there are
            some, so that a model without this argument serves all tasks that offer none. A model that cannot
            be held to them replies freely.

        Returns:
          The reply, without the thoughts before it.

        Raises:
          ChatError: no usable reply came, even after the client's retries.
        """
        ...


class Embedder(Protocol):
    """Turns texts into unit vectors. Safe to call from several threads."""

    name: str  # of the model; a log of memories can only be opened with the embedder that made its vectors
    dim: int  # width of a vector

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, one row of norm one for each text."""
        ...


class ChatError(RuntimeError):
    """A request failed, and no further retry is made.

    Args:
      what: one line: the model, the endpoint and the reason.
      kind: "down", "timeout", "rate_limit", "refused", "malformed", "budget" or "auth".
    """

    def __init__(self, what: str, *, kind: str):
        super().__init__(what)
        self.kind = kind  # "down", "timeout", "rate_limit", "refused", "malformed", "budget", "auth"


class Outcome(NamedTuple):
    """How one attempt at one task ended."""

    task_id: str
    success: bool
    score: float  # 0 to 1, what the benchmark counts
    trajectory: str  # the actions and observations, as text that may be shown to a model again
    feedback: str = ""  # the environment's last message, such as an error or a failed test
    steps: int = 1  # turns of the conversation
    prompt_tokens: int = 0
    completion_tokens: int = 0
    solution: str = ""  # what was done, without the conversation: a program, SQL, commands; "": not said


class Ask(Protocol):
    """A chat model whose settings are bound by the loop, which also counts its tokens."""

    def __call__(self, messages: Sequence[Message], /, *, choices: Sequence[str] = ()) -> Reply:
        """The model's reply to a conversation.

        Args:
          messages: the conversation, the last turn the user's.
          choices: the texts that the reply should be one of; none: any reply. Where the endpoint is told of
            them (`chat.choices` of the config) the reply is one of them, else it is free and may be none.

        Raises:
          ChatError: no usable reply came.
        """
        ...


class Task(Protocol):
    """One task of a benchmark."""

    id: str  # unique in its benchmark and stable between runs
    intent: str  # the description of the task alone; its embedding is the key of a memory

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Plays the task once.

        Args:
          ask: gives the model's reply to a conversation.
          memories: a block of text to show the model, "" for none. It is data and is never executed.

        Returns:
          How it ended. A mistake of the model is an outcome, not an exception.

        Raises:
          ChatError: as `ask` does.
        """
        ...


class Benchmark(NamedTuple):
    """Tasks of a benchmark, in a fixed order."""

    name: str
    train: Sequence[Task]  # played while the memory learns
    held_out: Sequence[Task]  # played afterwards with the memory frozen; may be empty
    about: dict[str, Any]  # source, sizes, what was left out and why


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """[n, D] f32 with rows of norm one. Raises ValueError where a row is zero or not finite."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0.0):
        raise ValueError("a vector that is zero or not finite")
    return (vectors / norms).astype(np.float32)
