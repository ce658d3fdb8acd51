"""The spending limit of a run: a request that does not fit in the budget is refused before it is sent."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.llm.clients.config import BudgetConfig
from memjax.llm.sqlite_file import SqliteFile
from memjax.llm.types import Chat, ChatError, Message, Reply

# Rows are only ever added: what a request may cost, then what it did cost.
_SCHEMA = """
CREATE TABLE requests (id INTEGER PRIMARY KEY, model TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL);
CREATE TABLE settled (request INTEGER PRIMARY KEY, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL);
"""
_SPENT = """
SELECT total(coalesce(s.prompt_tokens, r.prompt_tokens)),
    total(coalesce(s.completion_tokens, r.completion_tokens))
FROM requests r LEFT JOIN settled s ON s.request = r.id
"""
_MESSAGE_TOKENS = 16  # more than what a chat template adds to a message
_UNBILLED = ("down", "rate_limit", "auth", "budget")  # failures that never reached the model


class Spent(NamedTuple):
    """What was spent. A request that is not answered yet counts with the most that it can cost."""

    prompt_tokens: int
    completion_tokens: int
    money: float


class Ledger:
    """What a run has spent, kept on disk, so that earlier launches of the run count as well.

    Each request first reserves the most that it can cost, and then settles for what it did cost. A request
    without an answer when the process died keeps what it reserved. So the limits hold at any moment, as long
    as the endpoint respects `max_tokens`. Retries of a failed request are not counted separately.

    Args:
      config: the limits and the prices.
      path: the SQLite file, made where there is none.
    """

    def __init__(self, config: BudgetConfig, path: Path | str):
        self.config = config
        self._data = SqliteFile(path, _SCHEMA, version=2, chained=("requests", "settled"))
        self._change = threading.Condition()
        self._open = 0  # requests of this process under way
        row = self._data.one(_SPENT)
        assert row is not None
        self._prompt, self._completion = int(row[0]), int(row[1])

    @property
    def spent(self) -> Spent:
        """What all launches together have spent so far."""
        return Spent(self._prompt, self._completion, self._money(self._prompt, self._completion))

    def reserve(self, model: str, prompt: int, completion: int) -> int:
        """Reserves the cost of a new request; waits for open requests to settle while it does not fit.

        Args:
          model: name of the model, for the record.
          prompt: the most tokens that the prompt can have.
          completion: the most tokens that the reply can have.

        Returns:
          The number of the request, which `settle` takes.

        Raises:
          ChatError: kind "budget", where the request does not fit and no open request is left to wait for.
        """
        with self._change:
            while not self._fits(prompt, completion):
                if self._open == 0:
                    raise ChatError(self._message(prompt + completion), kind="budget")
                self._change.wait()
            with self._data.transaction() as connection:
                (number,) = connection.execute("SELECT ifnull(max(id), 0) + 1 FROM requests").fetchone()
                self._data.append(connection, "requests", [(number, model, prompt, completion)])
            self._open += 1
            self._prompt, self._completion = self._prompt + prompt, self._completion + completion
        return number

    def settle(self, number: int, bound: tuple[int, int], cost: tuple[int, int]) -> None:
        """Replaces what a request reserved by what it did cost.

        Args:
          number: of the request, from `reserve`.
          bound: (prompt, completion) tokens that were reserved.
          cost: (prompt, completion) tokens that were used.
        """
        with self._change:
            try:
                with self._data.transaction() as connection:
                    self._data.append(connection, "settled", [(number, *cost)])
                self._prompt += cost[0] - bound[0]
                self._completion += cost[1] - bound[1]
            finally:  # whatever the file does, those who wait for this request go on
                self._open -= 1
                self._change.notify_all()

    def close(self) -> None:
        """Closes the file."""
        self._data.close()

    def _fits(self, prompt: int, completion: int) -> bool:
        prompt, completion = self._prompt + prompt, self._completion + completion
        c = self.config
        within = c.tokens is None or prompt + completion <= c.tokens
        return within and (c.money is None or self._money(prompt, completion) <= c.money)

    def _money(self, prompt: int, completion: int) -> float:
        return (prompt * self.config.prompt_price + completion * self.config.completion_price) / 1e6

    def _message(self, need: int) -> str:
        spent, c = self.spent, self.config
        limits = [f"{c.tokens} tokens"] if c.tokens is not None else []
        limits += [f"{c.money:g} in money"] if c.money is not None else []
        used = f"{spent.prompt_tokens + spent.completion_tokens} tokens ({spent.money:g}) are spent"
        return f"budget of {' and '.join(limits)}: {used}, the next request may take {need} tokens"


class BudgetedChat:
    """A `Chat` whose requests are paid from a ledger.

    Args:
      chat: the model that answers.
      ledger: where its cost is reserved and settled.
    """

    def __init__(self, chat: Chat, ledger: Ledger):
        self.name = chat.name
        self._chat, self._ledger = chat, ledger

    def complete(self, messages: Sequence[Message], *, max_tokens: int, **settings: Any) -> Reply:
        """One reply, as `Chat.complete`. Raises ChatError, of kind "budget" where it does not fit."""
        bound = (prompt_bound(messages), max_tokens)
        number = self._ledger.reserve(self.name, *bound)
        cost = bound  # where it stays unknown
        try:
            reply = self._chat.complete(messages, max_tokens=max_tokens, **settings)
            if reply.prompt_tokens or reply.completion_tokens:
                cost = (reply.prompt_tokens, reply.completion_tokens)
            return reply
        except ChatError as error:
            cost = (0, 0) if error.kind in _UNBILLED else bound
            raise
        finally:
            self._ledger.settle(number, bound, cost)


def prompt_bound(messages: Sequence[Message]) -> int:
    """An upper bound on the tokens of a prompt: a token of a byte-level vocabulary has at least one byte."""
    return sum(len(m.content.encode()) + _MESSAGE_TOKENS for m in messages)
