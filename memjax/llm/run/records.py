"""What the experience log holds."""

import hashlib
from typing import Any, NamedTuple

KEY_CHARS = 4096  # of an intent that are embedded, as in the authors' code


class Recall(NamedTuple):
    """The memories injected for one task, best first, as they were when they were retrieved."""

    rows: tuple[int, ...]
    similarity: tuple[float, ...]
    utility: tuple[float, ...]


class Plan(NamedTuple):
    """What was decided for one task of a minibatch before it was played."""

    position: int  # in the minibatch, from 0
    task_id: str
    intent_hash: str
    recall: Recall
    version: int  # events that the memory had seen


class Attempt(NamedTuple):
    """How one task of a minibatch ended; `error` is set where it could not be played."""

    task_id: str
    success: bool = False
    score: float = 0.0
    trajectory: str = ""
    feedback: str = ""
    content: str = ""  # the experience as text, "" where none is to be written
    source: str = ""  # "script", "reflection" or "trajectory": what heads the content
    steps: int = 0  # turns of the conversation
    prompt_tokens: int = 0  # the summary's included, as all tokens here
    completion_tokens: int = 0
    summary_error: str = ""  # why the content has no summary, where one was wanted
    error: str = ""  # "kind: what" of a skip
    seconds: float = 0.0  # wall time; the one field that differs from run to run


class Experience(NamedTuple):
    """One memory as text. Rows are numbered from 0, in the order of writing, and never change."""

    row: int
    task_id: str
    epoch: int
    intent: str
    content: str
    success: bool
    reward: float
    recall: Recall  # what was injected when it was made
    provenance: dict[str, Any]  # writer, source, task, built_on
    text_hash: str  # sha256 of intent and content


class Event(NamedTuple):
    """One finished minibatch: all that the memory needs to learn it, or to learn it again."""

    number: int  # from 1, without gaps
    phase: str  # "learn", or "transfer", which leaves the memory as it is
    epoch: int
    minibatch: int  # in the epoch, from 0
    tasks: tuple[int, ...]  # numbers of the tasks
    intents: tuple[str, ...]  # hashes; the log holds the vectors
    recalls: tuple[Recall, ...]
    rewards: tuple[float, ...]
    success: tuple[bool, ...]
    scored: tuple[bool, ...]  # whether the reward counts: False for a task that was skipped
    rows: tuple[int, ...]  # of the experiences written; -1: none


def text_hash(*texts: str) -> str:
    """sha256, in hex, over texts of any content."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
