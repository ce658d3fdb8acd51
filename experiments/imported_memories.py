"""Files of memories that a run can begin with, made of what others published.

  python -m experiments.imported_memories references lifelong_db runs/data/lifelongagentbench --out db.jsonl
  python -m experiments.imported_memories walkthroughs train runs/data/alfworld --out walkthroughs.jsonl
  python -m experiments.imported_memories transcripts train runs/data/alfworld --limit=9 --last=4 --out=T
  python -m experiments.imported_memories reflexion 3 runs/data/reflexion_alfworld --out=r.jsonl

`references`: the benchmark's own solutions of its training tasks. `walkthroughs`: of the games of a split.
`transcripts`: the same games played along them (by the packages of the extra `alfworld`), for
`options.demonstrate`; with `--last`, from where so many commands are left.
`reflexion`: reflections of a GPT agent after failed trials at ALFWorld, up to that trial (0 to 14), each with
the outcome of the trial after it. Then `--config.language.imported.file=FILE`, and `imported.spoiled=0.33` to
spoil a third of them (memjax/llm/run/imported.py).
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from memjax.llm.tasks.alfworld import AlfworldTask, load_alfworld
from memjax.llm.tasks.loading import load
from memjax.llm.types import Message, Reply
from memjax.types import ConfigError

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("references", "walkthroughs", "transcripts", "reflexion"))
    parser.add_argument("which", help="a benchmark, a split, or a trial")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="tasks, drawn by seed 0")
    parser.add_argument("--last", type=int, help="commands of a transcript; all where none is given")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    arguments = parser.parse_args(argv)
    if arguments.kind == "references":
        rows = list(references(arguments.which, arguments.folder, arguments.limit))
    elif arguments.kind == "walkthroughs":
        rows = list(walkthroughs(arguments.which, arguments.folder, arguments.limit))
    elif arguments.kind == "transcripts":
        rows = list(transcripts(arguments.which, arguments.folder, arguments.limit, arguments.last))
    else:
        rows = list(reflections(int(arguments.which), arguments.folder))[: arguments.limit]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} memories in {arguments.out}")
    return 0


def references(benchmark: str, folder: Path, limit: int | None) -> Iterator[Row]:
    """The solutions of a benchmark's own training tasks. Raises ConfigError where it has none."""
    for task in load(benchmark, folder, limit=limit).train:
        text = getattr(task, "reference", None) or getattr(task, "solution", None)
        if not text:
            raise ConfigError("which", "a benchmark with solutions", benchmark)
        yield {"intent": task.intent, "text": text, "success": True, "source": "reference"}


def walkthroughs(split: str, folder: Path, limit: int | None) -> Iterator[Row]:
    """The commands that win each game of a split."""
    games: Sequence[AlfworldTask] = load_alfworld(folder, limit=limit, train=split, held_out=None).train  # type: ignore
    for task in games:
        if task.walkthrough:
            yield {
                "intent": task.intent,
                "text": told_steps(task.walkthrough),
                "success": True,
                "source": "walkthrough",
            }


def transcripts(split: str, folder: Path, limit: int | None, last: int | None = None) -> Iterator[Row]:
    """Games of a split, played along their walkthroughs from where `last` commands are left."""
    options: dict[str, Any] = {"limit": limit, "choose": True, "demonstrate": True, "last": last}
    games: Sequence[AlfworldTask] = load_alfworld(folder, train=split, held_out=None, **options).train  # type: ignore
    for task in games:
        if text := transcript(task):
            yield {"intent": task.intent, "text": text, "success": True, "source": "walkthrough"}


def transcript(task: AlfworldTask) -> str:
    """What a game is where it is played along its walkthrough; "" where that does not win it."""
    left = iter(task.parts()[1])

    def ask(messages: Sequence[Message], /, *, choices: Sequence[str] = ()) -> Reply:
        # What is not offered was given before, or helps no task.
        return Reply(next((command for command in left if command in choices), choices[0]), 0, 0)

    outcome = task.attempt(ask, "")
    return outcome.solution if outcome.success else ""


def told_steps(commands: Sequence[str]) -> str:
    """The commands of a walkthrough as a memory tells them."""
    return "\n".join(f"> {command}" for command in commands)


def reflections(trial: int, folder: Path) -> Iterator[Row]:
    """What the agent wrote about each room's failures up to a trial, and whether the trial then succeeded."""
    for room in json.loads(gzip.decompress((folder / f"reflexion_trial_{trial}.json.gz").read_bytes())):
        for number, text in enumerate(room["memory"]):
            newest = number == len(room["memory"]) - 1
            helped = bool(room["is_success"]) and newest
            task = re.search(r"(?:task was to|was to|task is to|I was in a task:) ([^.]+)\.", text)
            yield {
                "intent": task[1] if task else room["name"],
                "text": text,
                "success": helped,
                "source": f"reflexion {room['name']}",
            }


if __name__ == "__main__":
    raise SystemExit(main())
