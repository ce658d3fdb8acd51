"""Memories carry their solution: at every shipped size nearly all that is shown of real tasks is whole."""

import json
import random
import tarfile

import pytest
from scripted import shared

from memjax.commands.remember import resolve_language
from memjax.config_file import load_config
from memjax.llm.run.content import experience_text
from memjax.llm.run.prompts import memory_block
from memjax.llm.run.records import Experience, Recall
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.humaneval import load_humaneval
from memjax.llm.tasks.lifelong_db import load_lifelong_db
from memjax.llm.tasks.reading import read_lines
from memjax.llm.types import Reply

SHARE = 0.95
DRAWS = 40  # blocks of memories, drawn by a seed
PLAN = "1. Find out what is asked.\n2. Do it in the smallest number of steps.\n3. Check the result.\n" * 3


def functions():
    for task in load_humaneval(shared("humaneval")).train:
        yield task.intent, task.prompt, f"```python\n{task.solution}```", task.solution.strip()


def programs():
    """BigCodeBench asks in words and shows the imports and the head of the function that it wants."""
    for _, row in read_lines(shared("bigcodebench") / "BigCodeBench.jsonl.gz"):
        program = (row["code_prompt"] + row["canonical_solution"]).strip()
        yield row["instruct_prompt"], row["instruct_prompt"], f"```python\n{program}\n```", program


def requests():
    pytest.importorskip("sqlglot")
    for task in load_lifelong_db(shared("lifelongagentbench")).train:
        sql = f"{task.reference.rstrip(' ;')};"
        yield task.intent, task.intent, f"Action: Operation\n```sql\n{sql}\n```", sql


def games():
    """The walkthroughs of the unseen games, with the room's description as the task's first message."""
    with tarfile.open(shared("alfworld") / "alfworld_valid.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("game.tw-pddl") and "valid_unseen" in member.name:
                file = archive.extractfile(member)
                assert file is not None
                game = json.load(file)
                steps = "\n".join(f"> {command}" for command in game.get("walkthrough") or ())
                if steps:
                    yield member.name, "You are in a room. You see a desk.\n" * 9, steps, steps


KINDS = {
    "humaneval": functions,
    "bigcodebench": programs,
    "lifelong_db": requests,
    "alfworld": games,
}


def experience(row, config, kind):
    """The memory that a solved task leaves behind, as the loop writes it."""
    intent, asked, reply, solution = kind
    dialogue = Dialogue(lambda messages: Reply(reply, 1, 1), "rules", "")
    dialogue.say(asked)
    outcome = dialogue.outcome("t", True, solution=solution)
    content = experience_text(
        intent, outcome.solution, outcome.trajectory, summary=PLAN, success=True, chars=config.content_chars
    )
    about = {"core": content.core}
    return Experience(row, "t", 0, intent, content.text, True, 1.0, Recall((), (), ()), about, "")


@pytest.mark.parametrize("benchmark", list(KINDS))
def test_what_is_shown_holds_the_whole_solution(benchmark):
    solved = list(KINDS[benchmark]())
    assert len(solved) > 100
    for size in ("", "+local", "+code"):
        config = resolve_language(load_config(f"language:{benchmark}{size}", [])).language
        memories = [experience(row, config, kind) for row, kind in enumerate(solved)]
        drawn, whole, shown = random.Random(0), 0, 0
        for _ in range(DRAWS):
            offered = drawn.sample(memories, config.memory.keep)
            block = memory_block(offered, chars=config.inject_chars)
            inside = [solved[offered[i].row][3] in block.text for i in block.shown]
            assert (block.solutions, block.whole) == (len(inside), sum(inside))
            whole, shown = whole + sum(inside), shown + len(inside)
        assert whole / shown >= SHARE, (size, whole, shown)
        # Nearly all that was retrieved is shown: the share is not bought by passing memories over.
        assert shown / (DRAWS * config.memory.keep) >= 0.9, (size, shown)
