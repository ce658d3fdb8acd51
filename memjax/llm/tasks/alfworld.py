"""ALFWorld: household games in text, graded by the game itself.

3,553 games for training, 140 seen and 134 unseen for validation.

Data: the folder that holds `json_2.1.1/<split>/<task>/<trial>/{game.tw-pddl, traj_data.json}`, as ALFWorld
publishes it, and optionally ReAct's examples in `react_prompts.json`.

Protocol: each reply is one command, at most `steps` of them. A reply "think: ..." costs a step and changes
nothing. Text after the first line of a reply is dropped, since the model wrote it before it could know what
the command does. With `choose` each reply is one of the commands that can help, and there are no thoughts
(alfworld_choices.py). The games run in the packages `alfworld` and `textworld`, which evaluate expressions of
a game's file; so each game runs in its own sandbox.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from memjax.llm.tasks.alfworld_choices import (
    CHOOSE_EXAMPLE,
    CHOOSE_SYSTEM,
    FULFILLED,
    Choices,
    Shown,
    told_apart,
)
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.reading import check_limit, find, read_json, some, typed
from memjax.llm.tasks.reading import field as cell
from memjax.llm.tasks.textworld_game import Game, Scene, TextworldGame
from memjax.llm.types import Ask, Benchmark, Message, Outcome
from memjax.types import ConfigError

_GAME, _STORY, _EXAMPLES = "game.tw-pddl", "traj_data.json", "react_prompts.json"

# The name of each task type in ReAct's examples.
EXAMPLE_OF = {
    "pick_and_place_simple": "put",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "look_at_obj_in_light": "examine",
    "pick_two_obj_and_place": "puttwo",
}

_SYSTEM = """You are in a house and fulfil a task by commands. Each of your replies is one line: {replies}. After a command you are told what happened. You carry at most one thing. To look at a thing under a lamp, take it and use the lamp."""  # noqa: E501
_REPLIES = {
    "act": "one command",
    "react": 'either one command, or "think: " and a short thought',
}


Show = Literal["always", "invalid", "never"]  # "invalid": after a command that does nothing
Start = Callable[[Path], Game]


@dataclass(eq=False)
class AlfworldTask:
    """One game."""

    id: str
    intent: str  # the task in a sentence
    kind: str  # one of EXAMPLE_OF
    file: Path
    steps: int  # the most replies
    example: str  # of another game of this kind, "" for none
    replies: str  # the allowed forms of a reply, in words
    show_commands: Show  # when the model is shown the commands that are possible now
    choose: bool  # each reply is one of the commands that can help
    last: int | None  # with `choose`: the commands of the walkthrough that are left at the start; None: all
    demonstrate: bool  # with `choose`: memories of won games are turns of the conversation
    walkthrough: tuple[str, ...] = field(repr=False)  # the commands that win it; none where its file has none
    start: Start = field(repr=False)  # starts the game of a file

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Plays the game once, as `Task.attempt`. Also raises SandboxError where the game does not run."""
        game = self.start(self.file)
        try:
            if self.choose:
                return self._choose(self._conversation(ask, memories), game)
            system = _SYSTEM.format(replies=self.replies)
            return self._play(Dialogue(ask, system, memories, turns_of(self.example)), game)
        finally:
            game.close()

    def _play(self, dialogue: Dialogue, game: Game) -> Outcome:
        scene = game.reset()
        said = self._described(opening_of(scene.text), scene)
        done: list[str] = []  # commands that changed something
        for _ in range(self.steps):
            command = dialogue.say(said, taken=command_of)
            if command.lower().startswith("think:"):
                said = "OK."
            elif command not in scene.commands:  # the game would answer the same, only slower
                said = self._described("Nothing happens.", scene, invalid=True)
            else:
                scene = game.step(command)
                done.append(f"> {command}")
                said = self._described(scene.text.strip(), scene)
            if scene.won or scene.done:
                dialogue.note(said)
                why = "" if scene.won else "the game ended"
                return dialogue.outcome(self.id, scene.won, why, solution="\n".join(done))
        dialogue.note(said)
        why = f"the task was not fulfilled within {self.steps} steps"
        return dialogue.outcome(self.id, False, why, solution="\n".join(done))

    def _conversation(self, ask: Ask, memories: str) -> Dialogue:
        """What comes before a game of choices: the transcripts among the memories, or else the example."""
        shown = told_apart(memories) if self.demonstrate else Shown((), memories)
        examples = [f"{text}\n> OK.\n" for text in shown.transcripts] or [CHOOSE_EXAMPLE]
        turns = [turn for text in examples for turn in turns_of(text)]
        return Dialogue(ask, CHOOSE_SYSTEM, shown.text, turns)

    def _choose(self, dialogue: Dialogue, game: Game) -> Outcome:
        """The game as memjax.llm.tasks.alfworld_choices plays it.

        With `demonstrate` the solution of a won game is its transcript, else the commands that were given.
        """
        scene, choices = game.reset(), Choices(game, self.intent)
        told = said = opening_of(scene.text)
        for command in self.parts()[0]:
            if command in scene.commands:  # a place that was to be opened is open already
                scene, said, _ = choices.step(command)
        done, transcript = [], []
        why = f"the task was not fulfilled within {self.steps} steps"
        for step in range(self.steps):
            offered = choices.offered(scene)
            if not offered:
                why = "every command that could help was given"
                break
            if step:
                told = choices.told(said, offered)
            elif said != told:
                told = f"{told}\n{choices.told(said, offered)}"
            transcript.append(told)
            command = dialogue.say(told, taken=command_of, choices=offered)
            transcript.append(f"> {command}")
            if command not in offered:  # an endpoint that is not told of the choices
                said = "Nothing happens."
                continue
            scene, said, given = choices.step(command)
            done += [f"> {one}" for one in given]
            if scene.won or scene.done:
                why = "" if scene.won else "the game ended"
                break
        dialogue.note(said)
        whole = self.demonstrate and scene.won
        solution = "\n".join([*transcript, said, FULFILLED] if whole else done)
        return dialogue.outcome(self.id, scene.won, why, solution=solution)

    def parts(self) -> tuple[Sequence[str], Sequence[str]]:
        """The walkthrough's commands before the model is asked, and those left; no "open", see `Choices`."""
        commands = [command for command in self.walkthrough if not command.startswith("open ")]
        start = max(len(commands) - self.last, 0) if self.last else 0
        return commands[:start], commands[start:]

    def _described(self, text: str, scene: Scene, invalid: bool = False) -> str:
        shown = self.show_commands == "always" or (invalid and self.show_commands == "invalid")
        if not shown or scene.won:
            return text
        return f"{text}\nPossible commands: {', '.join(scene.commands)}"


def command_of(reply: str) -> str:
    """The command of a reply: the line with "Action:" or "Command:", else its first line that is not empty.

    The prefix, a leading ">", quotes and the full stop are removed.
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip().strip("`")]
    for line in lines:
        named = re.match(r"(?:>\s*)?(?:action|command)\s*:\s*(.+)", line, re.IGNORECASE)
        if named:
            return _bare(named[1])
    return _bare(lines[0]) if lines else ""


def turns_of(example: str) -> list[Message]:
    """An example of a game as a conversation up to its last command; lines with ">" are the assistant's."""
    turns: list[Message] = []
    for part in re.split(r"^(?=>)", example, flags=re.MULTILINE):
        command, _, said = part.partition("\n") if part.startswith(">") else ("", "", part)
        if command:
            turns.append(Message("assistant", _bare(command)))
        if part.strip():
            turns.append(Message("user", said.strip() or "OK."))
    return turns[:-1]  # the next turn is the opening of another game


def _bare(line: str) -> str:
    return line.lstrip("> ").strip("`'\" ").removesuffix(".").strip()


def opening_of(text: str) -> str:
    """The first text of a game, without its banner."""
    return re.sub(r"^-=.*?=-\s*", "", text.strip())


def load_alfworld(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    train: str = "train",
    held_out: str | None = "valid_seen",
    kinds: str = "",
    steps: int = 30,
    examples: str = "react",
    show_commands: Show = "always",
    choose: bool = False,
    last: int | None = None,
    demonstrate: bool = False,
    start: Start = TextworldGame,
    allow_weak_sandbox: bool = False,
) -> Benchmark:
    """The games of two splits.

    Games that ALFWorld itself leaves out (movable receptacles, sliced objects, unsolvable ones) are left out
    and listed in `about`.

    Args:
      folder: of the data (see the top of this file).
      limit: most games of each split; None: all.
      seed: draws them.
      train: the split to learn from.
      held_out: the split for transfer; None: no such games.
      kinds: task types to keep, joined by commas; "" keeps all.
      steps: the most replies in one game.
      examples: which of ReAct's examples precedes each game, where their file is there: "react", with
        thoughts, "act", without, or "" for none.
      show_commands: when the model is shown the possible commands: "always", "invalid" (after a command that
        does nothing) or "never".
      choose: offer the model the commands that can help, of which its reply is one; best with an endpoint
        that is told of them (`chat.choices`). Then `examples` and `show_commands` have no effect.
      last: with `choose`, begin each game where so many commands of its walkthrough are left (opening a place
        does not count), at its start where it has no more; None: at its start.
      demonstrate: with `choose`, store a won game as its transcript and show it as turns of the conversation,
        in place of the example. Other memories are shown as text.
      start: starts the game of a file.
      allow_weak_sandbox: run games even where the kernel gives no namespaces; only with the default `start`.

    Returns:
      The benchmark.

    Raises:
      ConfigError: an option is wrong, a folder is missing, or a file has another format.
    """
    check_limit(limit)
    base, wanted = Path(folder), _kinds(kinds)
    if show_commands not in get_args(Show):
        raise ConfigError("show_commands", " or ".join(get_args(Show)), repr(show_commands))
    if examples not in ("", *_REPLIES):
        raise ConfigError("examples", "react, act or ''", repr(examples))
    if last is not None and (type(last) is not int or last < 1):
        raise ConfigError("last", "at least 1, or None for whole games", repr(last))
    if not choose and (last is not None or demonstrate):
        raise ConfigError("choose", "True, for `last` and `demonstrate`", repr(choose))
    shown = _examples(base, examples) if examples else {}
    if allow_weak_sandbox and start is TextworldGame:
        start = partial(TextworldGame, allow_weak_sandbox=True)
    options = {
        "steps": steps,
        "replies": _REPLIES[examples or "react"],
        "show_commands": show_commands,
        "choose": choose,
        "last": last,
        "demonstrate": demonstrate,
        "start": start,
    }
    left_out: list[dict[str, str]] = []
    splits: list[list[AlfworldTask]] = []
    for split in (train, held_out):
        tasks = []
        games = _games(base, split, wanted, left_out) if split else []
        for game in some(games, limit, seed):
            task = _task(split or "", game, shown, options)
            if task is None:
                left_out.append({"id": str(game.parent), "why": "not solvable"})
            else:
                tasks.append(task)
        splits.append(tasks)
    about = {
        "source": "ALFWorld json_2.1.1 (MIT)" + (", examples of ReAct (MIT)" if shown else ""),
        "splits": [train, held_out],
        "kinds": sorted(wanted),
        "train": len(splits[0]),
        "held_out": len(splits[1]),
        "left_out": left_out,
    }
    return Benchmark("alfworld", splits[0], splits[1], about)


def _kinds(text: str) -> set[str]:
    """The task types in a comma-separated list; all of them for "". Raises ConfigError for an unknown one."""
    kinds = {kind.strip() for kind in text.split(",") if kind.strip()}
    if unknown := sorted(kinds - set(EXAMPLE_OF)):
        raise ConfigError("kinds", f"some of {', '.join(EXAMPLE_OF)}", unknown[0])
    return kinds or set(EXAMPLE_OF)


def _games(base: Path, split: str, kinds: set[str], left_out: list[dict[str, str]]) -> list[Path]:
    """The game files of a split, by name. A folder's name begins with the game's type."""
    root = base / "json_2.1.1" / split
    if not root.is_dir():
        raise ConfigError(str(root), f"the folder of the split {split}", "nothing there")
    games = []
    for story in sorted(root.glob(f"*/*/{_STORY}")):
        if "movable" in str(story.parent) or "Sliced" in str(story.parent):
            left_out.append(
                {"id": str(story.parent.relative_to(base)), "why": "ALFWorld does not play these"}
            )
        elif story.parent.parent.name.split("-")[0] in kinds or kinds == set(EXAMPLE_OF):
            games.append(find(story.parent, (_GAME,)))
    if not games:
        expected = (
            f"folders <task>/<trial> with {_STORY} and {_GAME}, of the kinds {', '.join(sorted(kinds))}"
        )
        raise ConfigError(str(root), expected, "none")
    return games


def _task(
    split: str, game: Path, examples: Mapping[str, str], options: Mapping[str, Any]
) -> AlfworldTask | None:
    """The task of a game file, or None where the file says that it cannot be solved."""
    content = typed(read_json(game), dict, str(game))
    if not cell(content, "solvable", bool, str(game)):
        return None
    story_path = game.parent / _STORY
    story = typed(read_json(story_path), dict, str(story_path))
    kind = cell(story, "task_type", str, str(story_path))
    if kind not in EXAMPLE_OF:
        raise ConfigError(f"{story_path}: task_type", f"one of {', '.join(EXAMPLE_OF)}", kind)
    return AlfworldTask(
        id=f"{split}/{game.parent.parent.name}/{game.parent.name}",
        intent=_sentence(cell(content, "grammar", str, str(game)), f"{game}: grammar"),
        kind=kind,
        file=game,
        example=examples.get(EXAMPLE_OF[kind], ""),
        walkthrough=tuple(typed(content.get("walkthrough") or [], list, f"{game}: walkthrough")),
        **options,
    )


def _sentence(grammar: str, where: str) -> str:
    found = re.search(r'"rhs":\s*"Your task is to: (?P<task>(?:[^"\\]|\\.)*)"', grammar)
    if found is None:
        raise ConfigError(where, 'a sentence "Your task is to: ..."', "none")
    return json.loads(f'"{found["task"]}"').strip()


def _examples(base: Path, style: str) -> dict[str, str]:
    """ReAct's first example of each kind, with thoughts ("react") or without, in the words of today's games.

    Empty where there is no file.
    """
    path = base / _EXAMPLES
    if not path.is_file():
        return {}
    prompts: dict[str, Any] = typed(read_json(path), dict, str(path))
    texts = {kind: cell(prompts, f"{style}_{kind}_0", str, str(path)) for kind in EXAMPLE_OF.values()}
    return {kind: _modern(text) for kind, text in texts.items()}


def _modern(text: str) -> str:
    """Replaces "put a in/on b", the command of older games, by today's "move a to b"."""
    text = re.sub(r"^> put (.+?) in/on (.+)$", r"> move \1 to \2", text, flags=re.MULTILINE)
    return re.sub(
        r"^You put the (.+?) in/on the (.+)$", r"You move the \1 to the \2", text, flags=re.MULTILINE
    )
