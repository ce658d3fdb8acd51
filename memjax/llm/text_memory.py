"""A memory for an agent of your own: finds texts for a task, and learns from the reward which of them help.

    memory = TextMemory("runs/notes", HashedNgrams())
    (found,) = memory.find(["refund for a broken lamp"])
    reward, note = play(found.prompt)  # your agent
    memory.learn([found], [reward], [note])

This is MemRL (arXiv 2601.03192) without its benchmarks: phases A and B of its retrieval in `find`, its rule
Q <- Q + alpha (r - Q) in `learn`. All that is learned is in an SQLite file before `learn` returns; `save`
only makes the next opening quicker.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.agents.memrl.config import MemRLConfig, preset
from memjax.agents.memrl.entries import TRUST
from memjax.llm.run.content import NO_CORE
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.memory import RowMemory
from memjax.llm.run.prompts import memory_block, plain
from memjax.llm.run.records import KEY_CHARS, Event, Experience, Recall, text_hash
from memjax.llm.run.state import LOG_FILE
from memjax.llm.text_checks import check_embedder, check_intents, check_lessons, check_vectors
from memjax.llm.types import Embedder
from memjax.memory import MemoryState
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.workdir import CHECKPOINTS, CONFIG_FILE, open_workdir, read_json
from memjax.schema import later_fields, parse
from memjax.types import ConfigError

CAPACITY = 4_096  # memories, unless a config says otherwise


class Found(NamedTuple):
    """What is shown for one intent. Give it to `learn` with the reward of the task."""

    intent: str
    prompt: str  # the memories as one text for a prompt, between marks; "" for none
    memories: tuple[Experience, ...]  # those that the prompt shows, best first
    recall: Recall  # their rows, similarities and utilities
    vector: np.ndarray  # [D] f32, of the intent

    def __repr__(self) -> str:
        rows = ", ".join(f"{x}: {q:+.2f}" for x, q in zip(self.recall.rows, self.recall.utility, strict=True))
        return f"Found({self.intent!r}, rows with their utilities {{{rows}}})"


class TextMemory:
    """Texts with utilities, in a directory. Safe to use from several threads of one process.

    Args:
      directory: of the memory: made where there is none, else continued.
      embedder: turns intents into vectors; always the same one for a directory. `HashedNgrams` needs nothing,
        `PackagedEmbedder` wraps a function of yours.
      config: what is recalled and learned. None: that of the directory, or else `preset("neutral")` with room
        for 4,096 memories.
      chars: most characters of a prompt.
      batch: intents or lessons of one compiled call. More are taken in turns.
      seed: of exploration, where the config asks for it.
      shards: devices that the arrays are split over; may change from one opening to the next.

    Raises:
      ConfigError: the directory belongs to another config, embedder or run, or another process uses it, or
        there are not so many devices.
    """

    def __init__(
        self,
        directory: Path | str,
        embedder: Embedder,
        config: MemRLConfig | None = None,
        *,
        chars: int = 4_000,
        batch: int = 8,
        seed: int = 0,
        shards: int = 1,
    ):
        folder = Path(directory)
        check_embedder(embedder)
        self.config = config or _stored_config(folder) or preset("neutral", capacity=CAPACITY)
        self.embedder, self.chars, self.batch = embedder, chars, batch
        self._lock, self._closed = threading.RLock(), False
        values = {
            "experiment": "text memory",
            "batch": batch,
            "seed": seed,
            "memory": json.loads(json.dumps(dataclasses.asdict(self.config))),
        }
        with contextlib.ExitStack() as stack:
            later = later_fields(MemRLConfig, "memory")
            stack.enter_context(open_workdir(folder, values, later=later))
            self._log = ExperienceLog(folder / LOG_FILE, embedder=embedder.name, dim=embedder.dim)
            stack.callback(self._log.close)
            self._checkpoints = stack.enter_context(Checkpoints(folder / CHECKPOINTS))
            self._rows = RowMemory(self.config, embedder.dim, batch, seed, shards)
            self._finds = 0
            self._open_arrays()
            self._stack = stack.pop_all()

    @classmethod
    def load(cls, directory: Path | str, embedder: Embedder, **options: Any) -> "TextMemory":
        """The memory that an earlier process kept, with its config.

        Args:
          directory: where it is.
          embedder: the one that it was made with.
          **options: `chars`, `batch`, `seed` and `shards` of the constructor.

        Raises:
          ConfigError: there is none in `directory`, or another embedder made it.
        """
        if not (Path(directory) / LOG_FILE).is_file():
            raise ConfigError("directory", f"one of a TextMemory, with {LOG_FILE}", f"'{directory}'")
        return cls(directory, embedder, **options)

    def find(self, intents: Sequence[str]) -> list[Found]:
        """The memories to show for each intent.

        A memory that does not fit whole into the prompt is passed over and earns no reward.

        Args:
          intents: a description of each task.

        Returns:
          What is shown, in the order of the intents.

        Raises:
          ConfigError: the intents are no list of texts, or the embedder's vectors do not fit.
        """
        self._check_open()
        check_intents(intents)
        if not intents:
            return []
        vectors = self._embed([plain(intent)[:KEY_CHARS] for intent in intents])
        recalls: list[Recall] = []
        with self._lock:
            for start in range(0, len(intents), self.batch):
                number, self._finds = self._version + self._finds, self._finds + 1
                recalls += self._rows.find(self._arrays, vectors[start : start + self.batch], number)
        return [self._found(*each) for each in zip(intents, vectors, recalls, strict=True)]

    def learn(
        self,
        found: Sequence[Found],
        rewards: Sequence[float | None],
        experiences: Sequence[str | None],
        *,
        success: Sequence[bool] | None = None,
        source: str = "agent",
        trust: int = TRUST,
    ) -> list[int]:
        """Credits the memories that were shown, and stores what was experienced.

        Args:
          found: of each task, as `find` gave it; of an earlier time is no problem.
          rewards: of each task, finite; None where it has none.
          experiences: a text for each task; None or "" stores nothing. A text longer than the prompt can show
            is cut when it is shown, at the end of a line.
          success: whether each task ended well, which decides under which title the text is shown; by default
            a reward above 0.
          source: who wrote the texts.
          trust: in that source. A text is trusted no more than those that were shown when it was made, and
            `find` shows none below the config's `least_trust`.

        Returns:
          The row of each text, by which `memories` of a later `Found` name it; -1 where none was stored.

        Raises:
          ConfigError: the lists have different lengths, a reward is not finite, or a text is none.
        """
        self._check_open()
        check_lessons(found, rewards, experiences, success)
        won = [bool(r and r > 0) for r in rewards] if success is None else list(success)
        rows: list[int] = []
        with self._lock:
            for start in range(0, len(found), self.batch):
                part = slice(start, start + self.batch)
                rows += self._learn(found[part], rewards[part], experiences[part], won[part], source, trust)
        return rows

    def quarantine(self, rows: Sequence[int], *, hide: bool = True, why: str = "") -> list[int]:
        """Hides texts and all that was built on them from `find`, or shows them again.

        Args:
          rows: of the texts.
          hide: False to show them again.
          why: kept with the decision.

        Returns:
          The rows that this hid or showed.

        Raises:
          ConfigError: there is no such text.
        """
        with self._lock:
            rows = self._log.built_on(rows)
            self._log.decide(rows, hide, why)
            self._arrays = self._rows.hide(self._arrays, dict.fromkeys(rows, hide))
        return rows

    def save(self) -> None:
        """Writes the arrays to disk. Nothing is lost without it: they are made again from the texts' file."""
        with self._lock:
            if self._saved != self._version:
                self._checkpoints.save(self._version, self._rows.stored(self._arrays))
                self._checkpoints.wait()
                self._saved = self._version

    def close(self) -> None:
        """Saves and lets go of the directory."""
        with self._lock, self._stack:
            if not self._closed:
                self.save()
            self._closed = True

    def __enter__(self) -> "TextMemory":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        """How many texts were stored in all, those that were displaced since included."""
        return self._log.num_experiences()

    @property
    def arrays(self) -> MemoryState:
        """Keys, utilities and their updates (`visits`) as they are now; the next `learn` consumes them."""
        return self._arrays

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("TextMemory", "one that is open", "one that was closed")

    def _open_arrays(self) -> None:
        restored = self._checkpoints.restore_latest(self._rows.stored_like(), required=False)
        if restored is None:
            arrays, self._version = self._rows.init(), 0
        else:
            arrays, self._version = self._rows.opened(restored.state), restored.step
        self._saved = self._version
        self._arrays = self._rows.warm_up(arrays)
        for event in self._log.events(self._version):
            self._apply(event)
        self._arrays = self._rows.hide(self._arrays, self._log.hidden())

    def _apply(self, event: Event) -> None:
        vectors = self._log.vectors(event.intents)
        self._arrays = self._rows.learn(self._arrays, event, vectors, credit=True)
        self._version = event.number

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        names = [text_hash(text) for text in texts]
        known = self._log.vectors(names)
        new = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
        if new:
            vectors = np.asarray(self.embedder.embed(list(new.values())), np.float32)
            check_vectors(vectors, (len(new), self.embedder.dim))
            known |= dict(zip(new, vectors, strict=True))
        return np.stack([known[name] for name in names])

    def _found(self, intent: str, vector: np.ndarray, recall: Recall) -> Found:
        offered = self._log.experiences(recall.rows)
        block = memory_block(offered, chars=self.chars)
        shown = tuple(offered[i] for i in block.shown)
        return Found(intent, block.text, shown, recall.only(block.shown), vector)

    def _learn(
        self,
        found: Sequence[Found],
        rewards: Sequence[float | None],
        texts: Sequence[str | None],
        success: Sequence[bool],
        source: str,
        trust: int,
    ) -> list[int]:
        keys = [plain(one.intent)[:KEY_CHARS] for one in found]
        names = [text_hash(key) for key in keys]
        self._log.keep_vectors({name: one.vector for name, one in zip(names, found, strict=True)})
        tasks = self._log.number_tasks(names)
        row, rows, experiences = self._log.num_experiences(), [], []
        for one, name, text, reward, won in zip(found, names, texts, rewards, success, strict=True):
            rows.append(row if text else -1)
            if text:
                experiences.append(self._experience(row, one, name, plain(text), won, reward, source))
                row += 1
        number = self._version + 1
        event = Event(
            number=number,
            phase="learn",
            epoch=0,
            minibatch=number - 1,
            tasks=tuple(tasks[name] for name in names),
            intents=tuple(names),
            recalls=tuple(one.recall for one in found),
            rewards=tuple(0.0 if reward is None else float(reward) for reward in rewards),
            success=tuple(success),
            scored=tuple(reward is not None for reward in rewards),
            rows=tuple(rows),
            trust=(trust,) * len(rows),
        )
        self._log.commit(event, experiences, [])
        self._apply(event)
        return rows

    def _experience(
        self, row: int, found: Found, task: str, text: str, won: bool, reward: float | None, source: str
    ) -> Experience:
        whole = len(text) <= self.chars // self.config.keep  # longer ones are cut when they are shown
        about = {
            "source": source,
            "built_on": list(found.recall.rows),
            "core": len(text) if whole else NO_CORE,
        }
        intent = plain(found.intent)
        earned = 0.0 if reward is None else float(reward)
        return Experience(
            row, task, 0, intent, text, won, earned, found.recall, about, text_hash(intent, text)
        )


def _stored_config(folder: Path) -> MemRLConfig | None:
    """The memory's config of a directory; None where it has none yet."""
    if not (folder / LOG_FILE).is_file():
        return None
    values = read_json(folder / CONFIG_FILE)
    if "memory" not in values:
        raise ConfigError("directory", "one of a TextMemory", f"'{folder}', which holds another run")
    return parse(MemRLConfig, values["memory"], "memory")
