"""What the tests of benchmark tasks share: a scripted model, and where the data lies."""

import os
from pathlib import Path

import pytest

from memjax.llm.tasks.databases.sql import Table
from memjax.llm.types import Reply

FOLDER = Path(os.environ.get("MEMJAX_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


SHOP = Table("shop", (("id", "INT"), ("name", "TEXT")), ((1, "Pear"), (2, "it's; fig"), (4, None)))


def operation(sql):
    return f"Action: Operation\n```sql\n{sql}\n```"


def answer(text):
    return f"Action: Answer\nFinal Answer: {text}"


def shared(name: str) -> Path:
    """A folder of the shared data; the test is skipped where it is not there."""
    if not (FOLDER / name).is_dir():
        pytest.skip(f"no data at {FOLDER / name}")
    return FOLDER / name


class Script:
    """A model that says what is written down, and remembers what it was asked."""

    def __init__(self, *replies: str):
        self.replies = list(replies)
        self.asked: list[list] = []
        self.offered: list[list[str]] = []

    def __call__(self, messages, /, *, choices=()):
        self.asked.append(list(messages))
        self.offered.append(list(choices))
        return Reply(self.replies.pop(0), prompt_tokens=7, completion_tokens=3)
