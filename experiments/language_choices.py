"""ALFWorld by choice with a local model: what is chosen at each decision, and which games are won.

  llama-server -m MODEL.gguf --port 8080 -c 16384 -np 4
  python -m experiments.language_choices decisions --data runs/data/alfworld --out OUT
  python -m experiments.language_choices games --data runs/data/alfworld --out OUT
  python -m experiments.language_choices tables --out OUT

Arms differ in one memory that is shown: none; "right", the walkthrough of the training game of this kind
whose task is most alike (hashed n-grams); "spoiled", the same task with that of a game of another kind.
`games`: each game of the split is played as memjax/llm/tasks/alfworld_choices.py says. `decisions`: each game
is led to three places that it does not need, then along its own walkthrough, and at every step the model is
asked what it would do. It is right where it chooses the walkthrough's command (with any other place or thing
of that type), a thing of the task that it sees, or, where it carries nothing and sees none, any place. So a
game that would be lost early still tells what the model knows of its later steps.

Games are taken in turn from each kind, so that a run that is cut short has all kinds. The same command goes
on where it was stopped. Intervals are a bootstrap over the games, paired by game.
"""

import argparse
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.imported_memories import told_steps
from experiments.result_folder import append_rows, read_rows
from memjax.llm.clients.config import ChatConfig, EndpointConfig
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.clients.openai_chat import OpenAIChat
from memjax.llm.run.content import experience_text
from memjax.llm.run.prompts import memory_block
from memjax.llm.run.records import Experience, Recall
from memjax.llm.tasks.alfworld import AlfworldTask, load_alfworld, opening_of, turns_of
from memjax.llm.tasks.alfworld_choices import CHOOSE_EXAMPLE, CHOOSE_SYSTEM, Choices
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.types import Ask, Message, Reply

ARMS = ("none", "right", "spoiled")
STEPS, TOKENS, CHARS, AWAY = 25, 32, 2_400, 3
FILES = {"decisions": "decisions.csv", "games": "games.csv"}


class Row(NamedTuple):
    """One decision, or one game, whose `step` is the number of its steps and whose `label` is empty."""

    task: str
    kind: str
    arm: str
    step: int
    label: str  # search, take, carry, heat, cool, clean, use, move
    right: int
    chosen: str


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*FILES, "tables"))
    parser.add_argument("--data", type=Path, default=Path("runs/data/alfworld"), metavar="FOLDER")
    parser.add_argument("--split", default="valid_seen")
    parser.add_argument("--games", type=int, default=12)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--workers", type=int, default=1, help="games at the same time")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    if arguments.what == "tables":
        tables(arguments.out)
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / FILES[arguments.what]
    done = {(row.task, row.arm) for row in read(file)}
    options = {"held_out": None, "choose": True, "steps": STEPS}
    games: Sequence[AlfworldTask] = load_alfworld(arguments.data, train=arguments.split, **options).train  # type: ignore
    bank: Sequence[AlfworldTask] = load_alfworld(arguments.data, train="train", **options).train  # type: ignore
    memories = Memories([task for task in bank if task.walkthrough])
    ask = asking(arguments.url)
    play = decisions if arguments.what == "decisions" else game

    def one(place: tuple[AlfworldTask, str]) -> list[Row]:
        task, arm = place
        return list(play(task, arm, ask, memories.block(task, arm)))

    chosen = [task for task in in_turn(games) if task.walkthrough][: arguments.games]
    left = [(task, arm) for task in chosen for arm in arguments.arms if (task.id, arm) not in done]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for rows in pool.map(one, left):
            append_rows(file, Row._fields, rows)
            print(*rows[-1][:4], f"{sum(row.right for row in rows)} of {len(rows)}", flush=True)
    return 0


def asking(url: str) -> Ask:
    """A model behind llama.cpp's server, greedy."""
    endpoint = EndpointConfig(url, "local", None, timeout=3_600.0, retries=3, backoff=2.0, max_wait=60.0)
    chat = OpenAIChat(ChatConfig(endpoint, "max_tokens", {"cache_prompt": True}, choices="grammar"))

    def ask(messages: Sequence[Message], /, *, choices: Sequence[str] = ()) -> Reply:
        return chat.complete(messages, max_tokens=TOKENS, temperature=0.0, seed=0, choices=choices)

    return ask


def in_turn(games: Sequence[AlfworldTask]) -> list[AlfworldTask]:
    """The games, drawn by seed 0, one of each kind in turn."""
    draw, kinds = random.Random(0), sorted({task.kind for task in games})
    parts = [[task for task in games if task.kind == kind] for kind in kinds]
    for part in parts:
        draw.shuffle(part)
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


class Memories:
    """Walkthroughs of other games, found by their tasks."""

    def __init__(self, bank: Sequence[AlfworldTask]):
        self._bank, self._embedder = bank, HashedNgrams(384)
        self._keys = self._embedder.embed([task.intent for task in bank])

    def block(self, task: AlfworldTask, arm: str) -> str:
        """What an arm shows before a game."""
        if arm == "none":
            return ""
        near = np.argsort(-(self._keys @ self._embedder.embed([task.intent])[0]), kind="stable")
        found = next(self._bank[i] for i in near if self._bank[i].kind == task.kind)
        others = [other for other in self._bank if other.kind != task.kind]
        source = found if arm == "right" else random.Random(task.id).choice(others)
        steps = told_steps(source.walkthrough)
        text = experience_text(found.intent, steps, "", summary="", success=True, chars=CHARS)
        nothing, about = Recall((), (), ()), {"core": text.core}
        memory = Experience(0, found.id, -1, found.intent, text.text, True, 1.0, nothing, about, "")
        return memory_block([memory], chars=CHARS).text


def game(task: AlfworldTask, arm: str, ask: Ask, memories: str) -> Iterator[Row]:
    """One game, played to its end."""
    outcome = task.attempt(ask, memories)
    yield Row(
        task.id, task.kind, arm, outcome.steps, "", int(outcome.success), outcome.solution.replace("\n", " ")
    )


def decisions(task: AlfworldTask, arm: str, ask: Ask, memories: str) -> Iterator[Row]:
    """What is chosen at each step of a game that is led along its walkthrough."""
    started = task.start(task.file)
    try:
        scene, choices, commands = started.reset(), Choices(started, task.intent), task.walkthrough
        thing = next(x for x in commands if x.startswith("take ")).split()[1]
        away = [x for x in choices.offered(scene) if x.startswith("go to ") and x not in commands]
        led = [*random.Random(task.id).sample(sorted(away), min(AWAY, len(away))), *commands]
        forced = Led(ask)
        dialogue = Dialogue(forced, CHOOSE_SYSTEM, memories, turns_of(CHOOSE_EXAMPLE))
        said, carries = opening_of(scene.text), False
        for step, command in enumerate(led):
            offered = choices.offered(scene)
            if command not in offered:  # such as "open", which is done on arrival
                continue
            seen = any(x.startswith(f"take {thing} ") for x in offered)
            forced.command = command
            dialogue.say(choices.told(said, offered) if step else said, choices=offered)
            label = label_of(command, carries)
            right = judged(forced.said, command, label, thing, seen)
            yield Row(task.id, task.kind, arm, step, label, int(right), forced.said)
            scene, said, _ = choices.step(command)
            carries = command.startswith("take ") or (carries and not command.startswith("move "))
    finally:
        started.close()


class Led:
    """An `Ask` that keeps the model's choice, and answers with the command that is forced."""

    def __init__(self, ask: Ask):
        self._ask, self.command, self.said = ask, "", ""

    def __call__(self, messages: Sequence[Message], /, *, choices: Sequence[str] = ()) -> Reply:
        reply = self._ask(messages, choices=choices)
        self.said = reply.text
        return reply._replace(text=self.command)


def label_of(command: str, carries: bool) -> str:
    """What kind of decision a command of a walkthrough is."""
    verb = command.split()[0]
    return ("carry" if carries else "search") if verb == "go" else verb


def judged(chosen: str, command: str, label: str, thing: str, seen: bool) -> bool:
    """Whether a choice is as good as the walkthrough's, as far as that can be said."""
    if label == "take" or (seen and label == "search"):
        return chosen.startswith(f"take {thing} ")
    if label == "search":
        return chosen.startswith("go to ")
    return types_in(chosen) == types_in(command)


def types_in(command: str) -> str:
    """A command without the numbers of places and things."""
    return re.sub(r" \d+", "", command)


def read(file: Path) -> list[Row]:
    """The rows of a CSV; none where there is no file."""
    return [
        Row(**row | {name: int(row[name]) for name in ("step", "right")})  # type: ignore[arg-type]
        for row in read_rows(file)
    ]


def tables(out: Path) -> None:
    """Writes tables.md from the CSV files of a folder."""
    text = ["Generated by `python -m experiments.language_choices tables`.", ""]
    for what, file in FILES.items():
        rows = read(out / file)
        arms = [arm for arm in ARMS if any(row.arm == arm for row in rows)]
        if not rows:
            continue
        whole = set.intersection(*({row.task for row in rows if row.arm == arm} for arm in arms))
        rows = [row for row in rows if row.task in whole]
        split = "label" if what == "decisions" else "kind"
        names = list(dict.fromkeys(getattr(row, split) for row in rows))
        text += [f"## {what}: {len(whole)} games", "", f"| memory | all | {' | '.join(names)} |"]
        text += ["|---" * (len(names) + 2) + "|"]
        for arm in arms:
            here = [row for row in rows if row.arm == arm]
            parts = [here, *([row for row in here if getattr(row, split) == name] for name in names)]
            text += [f"| {arm} | {' | '.join(share(part) for part in parts)} |"]
        text += ["", *differences(rows, arms), ""]
    (out / "tables.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def share(rows: Sequence[Row]) -> str:
    """How many of some rows are right."""
    return f"{sum(row.right for row in rows)} of {len(rows)}"


def differences(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    """Differences of the arms in points, paired by game, with their intervals."""
    from experiments.language_benchmarks_tables import told

    means: Mapping[str, Mapping[str, float]] = {arm: by_game(rows, arm) for arm in arms}
    lines = []
    for arm, rival in (("right", "none"), ("spoiled", "none"), ("right", "spoiled")):
        if arm in means and rival in means:
            values = 100 * np.array([means[arm][task] - means[rival][task] for task in means[arm]])
            lines.append(f"- {arm} minus {rival}: {told(values)}")
    return lines


def by_game(rows: Sequence[Row], arm: str) -> dict[str, float]:
    """The share of right rows of each game."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.arm == arm:
            found.setdefault(row.task, []).append(row.right)
    return {task: float(np.mean(values)) for task, values in found.items()}


if __name__ == "__main__":
    raise SystemExit(main())
