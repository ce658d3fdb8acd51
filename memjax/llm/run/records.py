"""The records of the experience log."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

KEY_CHARS = 4096  # characters of an intent that are embedded, as in the authors' code


class Recall(NamedTuple):
    """The memories injected for one task, best first, as they were when they were retrieved."""

    rows: tuple[int, ...]  # of the experiences in the log
    similarity: tuple[float, ...]  # cosine, to the task's intent
    utility: tuple[float, ...]  # 0 in modes without utilities

    def only(self, places: Sequence[int]) -> "Recall":
        """The memories at `places`, in that order."""
        columns = (self.similarity, self.utility)
        similarity, utility = (tuple(column[i] for i in places) for column in columns)
        return Recall(tuple(self.rows[i] for i in places), similarity, utility)


class Plan(NamedTuple):
    """The memories that were retrieved for one task of a minibatch, before it is played."""

    position: int  # in the minibatch, from 0
    task_id: str
    intent_hash: str
    recall: Recall
    version: int  # the last event that the memory had learned
    solutions: int = 0  # memories of the recall that have a solution
    whole: int = 0  # of these, those that are shown with all of it


class Attempt(NamedTuple):
    """How one task of a minibatch ended; `error` is set where it could not be played."""

    task_id: str
    success: bool = False
    score: float = 0.0
    trajectory: str = ""
    feedback: str = ""
    content: str = ""  # the experience as text, "" where none is to be stored
    source: str = ""  # "script", "reflection" or "trajectory": the first part of the content
    steps: int = 0  # turns of the conversation
    prompt_tokens: int = 0  # those of the summary included
    completion_tokens: int = 0  # those of the summary included
    summary_error: str = ""  # why the content has no summary, where one was wanted
    error: str = ""  # "kind: what" of a task that could not be played
    seconds: float = 0.0  # wall time; the only field that differs from run to run
    core: int = -1  # characters of the content's beginning that hold its lesson (memjax.llm.run.content)
    replaces: tuple[int, ...] = ()  # rows of memories that its content replaces, or found wrong


class Experience(NamedTuple):
    """One memory as text. Rows are numbered from 0, in the order of writing, and never change."""

    row: int
    task_id: str
    epoch: int
    intent: str
    content: str
    success: bool
    reward: float
    recall: Recall  # the memories that were shown in the attempt it records
    provenance: dict[str, Any]  # writer, source, task, built_on, summary_error, core
    text_hash: str  # sha256 of intent and content


class Event(NamedTuple):
    """One finished minibatch: all that the memory needs to learn from it, now or when it is rebuilt."""

    number: int  # from 1, without gaps
    phase: str  # "learn"; "import", of memories alone; "transfer", in which the memory does not change
    epoch: int
    minibatch: int  # in the epoch, from 0
    tasks: tuple[int, ...]  # numbers of the tasks
    intents: tuple[str, ...]  # hashes; the log holds the vectors
    recalls: tuple[Recall, ...]
    rewards: tuple[float, ...]
    success: tuple[bool, ...]
    scored: tuple[bool, ...]  # whether the reward counts: False for a task that was skipped
    rows: tuple[int, ...]  # of the experiences written; -1: none
    utility: tuple[float, ...] = ()  # their first utilities; (): as the config has them, by outcome
    trust: tuple[int, ...] = ()  # in their sources; (): in the agent's own
    removed: tuple[int, ...] = ()  # rows that are not shown any more


def text_hash(*texts: str) -> str:
    """The sha256, in hex, of a sequence of texts; their lengths are part of it."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
