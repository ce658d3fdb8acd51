"""A scripted model, tasks that memories help with, and a small config, for tests of the loop."""

import hashlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from memjax.agents.memrl.config import preset
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.imported import ImportedConfig
from memjax.llm.run.memory import RowMemory
from memjax.llm.types import Benchmark, ChatError, Message, Outcome, Reply
from memjax.runs.checkpoint import Checkpoints

KINDS = (
    "boil water in the kitchen",
    "sort a table of users",
    "count files in a folder",
    "paint the old fence",
)


class ScriptedChat:
    """Answers from a hash of the conversation; knows a secret only when it is shown in a memory."""

    name = "scripted"

    def __init__(self, *, delay: float = 0.0, fails: Any = None):
        self.delay, self.fails, self.asked = delay, fails, []

    def complete(self, messages, *, max_tokens, temperature, seed) -> Reply:
        self.asked.append(list(messages))
        if self.delay:
            time.sleep(self.delay)
        text = "\n".join(m.content for m in messages)
        if self.fails is not None:
            kind = self.fails(messages)
            if kind:
                raise ChatError(f"scripted {kind}", kind=kind)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Reply(f"{digest[:12]} of {len(text)}", len(text) // 4, 6)


class ScriptedTask:
    """Solved when memories show the word of its kind, else by a coin that depends on the prompt."""

    def __init__(self, number: int):
        self.kind = number % len(KINDS)
        self.id = f"task-{number}"
        self.intent = f"{KINDS[self.kind]}, variant {number}"
        self.shown: list[str] = []

    def attempt(self, ask, memories: str) -> Outcome:
        self.shown.append(memories)
        messages = [Message("system", "play"), Message("user", self.intent)]
        if memories:
            messages.insert(1, Message("user", memories))
        reply = ask(messages)
        solved = f"word-{self.kind}" in memories or int(reply.text[:2], 16) < 100
        trajectory = f"did {reply.text}" + (f" and found word-{self.kind}" if solved else "")
        return Outcome(self.id, solved, float(solved), trajectory, "" if solved else "no word", steps=1)


def benchmark(tasks: int = 10, held_out: int = 3) -> Benchmark:
    some = [ScriptedTask(i) for i in range(tasks + held_out)]
    return Benchmark("scripted", some[:tasks], some[tasks:], {})


def config(mode: str = "memrl", **changes: Any) -> LanguageConfig:
    memory = preset("paper", "db", capacity=64, recall=4, keep=2, threshold=0.2)
    memory = replace(memory, **changes.pop("memory", {}))
    values = LanguageConfig(
        mode=mode,
        seed=0,
        epochs=2,
        batch=4,
        shuffle=False,
        concurrency=3,
        overlap=0,
        transfer=False,
        temperature=0.0,
        max_tokens=50,
        summary_temperature=0.0,
        summary_max_tokens=50,
        summaries=changes.pop("summaries", mode != "rag"),
        own_reflection=False,
        content_chars=2000,
        inject_chars=2000,
        reward_success=1.0,
        reward_failure=-1.0,
        graded=False,
        memory=memory,
        imported=ImportedConfig("", None, 0.0, 0),
        shards=1,
        save_every=2,
        give_up_after=50,
    )
    values = replace(values, **changes)
    values.check()
    return values


def embedder() -> HashedNgrams:
    return HashedNgrams(32)


def arrays_of(workdir: Path, settings: LanguageConfig) -> Any:
    """The arrays of a run's newest checkpoint, and the event that they are of."""
    memory = RowMemory(settings.bank, embedder().dim, settings.batch, settings.seed)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore_latest(memory.init())
    assert restored is not None
    return restored.state, restored.step


def main(workdir: str, overlap: int, delay: float) -> None:
    """The run that the kill tests start and kill."""
    from memjax.llm.run.loop import run_language

    chat = ScriptedChat(delay=delay)
    run_language(Path(workdir), kill_config(overlap), benchmark(), chat, embedder())
    print("done", flush=True)


def kill_config(overlap: int) -> LanguageConfig:
    small = dict(capacity=16)  # rows are displaced before the end
    return config(overlap=overlap, transfer=True, epochs=3, shuffle=True, save_every=2, memory=small)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
