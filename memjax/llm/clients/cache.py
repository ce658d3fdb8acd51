"""A store of replies and vectors, found by the hash of the request: a cache, and the recording of a run.

The cache keeps servers apart: one model name at two servers may be two models, so the reply of one server is
never returned for a request to another. In mode "replay" no request is sent at all, so that an experiment can
be repeated offline with the same result; recordings from any server are accepted then.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax.llm.clients.config import StoreConfig
from memjax.llm.sqlite_file import SqliteFile
from memjax.llm.types import Chat, ChatError, Embedder, Message, Reply
from memjax.types import ConfigError

_SCHEMA = """
CREATE TABLE chat (key TEXT, server TEXT, request TEXT NOT NULL, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, finish TEXT NOT NULL,
    PRIMARY KEY (key, server)) WITHOUT ROWID;
CREATE TABLE failures (key TEXT, server TEXT, kind TEXT NOT NULL, what TEXT NOT NULL,
    PRIMARY KEY (key, server)) WITHOUT ROWID;
CREATE TABLE vectors (key TEXT, server TEXT, vector BLOB NOT NULL, PRIMARY KEY (key, server)) WITHOUT ROWID;
"""


class Store:
    """The SQLite file of replies and vectors. It never holds an API key: the stored requests have none.

    Every `key` below is the sha256, in hex, of a request or a text, and every `server` the address that was
    asked.
    """

    def __init__(self, config: StoreConfig):
        if config.mode == "off":
            raise ConfigError("store.mode", "'cache' or 'replay'", "'off'")
        self.replays = config.mode == "replay"
        self._data = SqliteFile(config.path, _SCHEMA, version=2, durable=False, read_only=self.replays)

    def reply(self, key: str, server: str) -> Reply | None:
        """The stored reply with `cached` set; None where there is none."""
        row = self._find("text, prompt_tokens, completion_tokens, finish FROM chat", key, server)
        return None if row is None else Reply(*row, cached=True)

    def failure(self, key: str, server: str) -> ChatError | None:
        """The error of the last time that the request failed; None where it never did."""
        row = self._find("what, kind FROM failures", key, server)
        return None if row is None else ChatError(row[0], kind=row[1])

    def keep_reply(self, key: str, server: str, request: str, reply: Reply) -> None:
        """Stores a reply. Where the request has a stored reply already, that one stays."""
        with self._data.transaction() as connection:
            values = (request, reply.text, reply.prompt_tokens, reply.completion_tokens, reply.finish)
            connection.execute(
                "INSERT OR IGNORE INTO chat VALUES (?, ?, ?, ?, ?, ?, ?)", (key, server, *values)
            )

    def keep_failure(self, key: str, server: str, error: ChatError) -> None:
        """Stores how a request failed. Only replays read it: a cache sends the request again."""
        with self._data.transaction() as connection:
            values = (key, server, error.kind, str(error))
            connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", values)

    def vector(self, key: str, server: str) -> np.ndarray | None:
        """The stored vector, [D] f32; None where there is none."""
        row = self._find("vector FROM vectors", key, server)
        return None if row is None else np.frombuffer(row[0], "<f4").astype(np.float32)

    def keep_vectors(self, keys: Sequence[str], server: str, vectors: np.ndarray) -> None:
        """Stores one vector for each key; `vectors` is [n, D]."""
        with self._data.transaction() as connection:
            rows = [
                (key, server, row.astype("<f4").tobytes()) for key, row in zip(keys, vectors, strict=True)
            ]
            connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Closes the file."""
        self._data.close()

    def _find(self, columns: str, key: str, server: str) -> tuple | None:
        """The row of this server; in a replay, where it has none, that of any other."""
        where = "key = ? AND (server = ? OR ?) ORDER BY server <> ?, server LIMIT 1"
        return self._data.one(f"SELECT {columns} WHERE {where}", (key, server, self.replays, server))


class StoredChat:
    """A `Chat` that looks into a store first, and keeps there what the model answers.

    Args:
      chat: the model, asked where the store has no reply; None: only the store answers.
      store: the replies kept so far.
      name: of the model.
      settings: other settings that shape a reply, such as top_p, as plain values.
      server: address of the endpoint.
    """

    def __init__(self, chat: Chat | None, store: Store, *, name: str, settings: Any = None, server: str = ""):
        self.name, self._server = name, server
        self._chat, self._store, self._settings = chat, store, settings

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        choices: Sequence[str] = (),
    ) -> Reply:
        """The stored reply, or a new one.

        Raises:
          ChatError: as the model does.
          ConfigError: in a replay, where the request was not recorded.
        """
        # At temperature 0 nothing is drawn at random, so requests that differ in the seed alone are the same.
        seed = seed if temperature > 0.0 else 0
        turns = [[m.role, m.content] for m in messages]
        offered: dict[str, Any] = {"choices": list(choices)} if choices else {}
        asked = [self.name, self._settings, turns, max_tokens, temperature, seed, *offered.values()]
        request = json.dumps(asked)
        key = hashlib.sha256(request.encode()).hexdigest()
        reply = self._store.reply(key, self._server)
        if reply is not None:
            return reply
        if self._store.replays or self._chat is None:
            raise self._store.failure(key, self._server) or _missing(
                self.name, messages[-1].content if messages else ""
            )
        try:
            reply = self._chat.complete(
                messages, max_tokens=max_tokens, temperature=temperature, seed=seed, **offered
            )
        except ChatError as error:
            self._store.keep_failure(key, self._server, error)
            raise
        self._store.keep_reply(key, self._server, request, reply)
        return reply


class StoredEmbedder:
    """An `Embedder` that looks into a store first, and keeps there what the model answers.

    Args:
      embedder: the model, asked for texts that the store lacks; None: only the store answers.
      store: the vectors kept so far.
      name: of the model.
      dim: width of a vector.
      server: address of the endpoint.
    """

    def __init__(self, embedder: Embedder | None, store: Store, *, name: str, dim: int, server: str = ""):
        self.name, self.dim, self._server = name, dim, server
        self._embedder, self._store = embedder, store

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, one row for each text. Raises ConfigError where a replay has no recording."""
        keys = [hashlib.sha256(json.dumps([self.name, self.dim, t]).encode()).hexdigest() for t in texts]
        known = {key: self._store.vector(key, self._server) for key in keys}
        new = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        if new:
            if self._store.replays or self._embedder is None:
                raise _missing(self.name, next(iter(new.values())))
            vectors = self._embedder.embed(list(new.values()))
            self._store.keep_vectors(list(new), self._server, vectors)
            known |= dict(zip(new, vectors, strict=True))
        rows = [row for key in keys if (row := known[key]) is not None]  # by now there is one for each
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


def _missing(name: str, text: str) -> ConfigError:
    shown = " ".join(text.split())[:60]
    return ConfigError("store.path", "a recording of every request", f"none to {name} that ends {shown!r}")
