"""ALFWorld by choice: each reply is one of the commands that can help, for models that get lost otherwise.

What a small model does without it: it gives impossible commands, walks to and fro, and takes wrong things.
The rules are the same for every memory, know nothing of the task, and leave each choice to the model. They
can close a game: a thing that was taken and then put down in a wrong place is not offered again.

- Not offered: commands that no task of this benchmark needs (look, inventory, examine, close, slice); a
  command that was given since something was last taken or moved, but places again once no other is left; a
  thing that was taken before; moving a thing back to the place from where it was just taken.
- A closed place is opened on arrival, and "open" is not offered.
- Each observation ends with the task, what is carried, and the commands here but for "go to".

A won game can be told as a transcript, in the form of `CHOOSE_EXAMPLE`. A memory that holds one can then be
shown as turns of the conversation, as an example is, in place of a text about another conversation: a small
model goes on as its turns did, where it takes nothing from the text.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memjax.llm.tasks.textworld_game import Game, Scene

FULFILLED = "The task is fulfilled."
_MEMORY = re.compile(r"<memory>\n(.*?)\n</memory>\n?", re.DOTALL)
_WON = re.compile(rf"Solution that worked:\n(.*?\n{re.escape(FULFILLED)})(?:\n|$)", re.DOTALL)
_HIDDEN = ("look", "inventory", "help", "examine ", "close ", "slice ", "open ")
_GO = "go to "

CHOOSE_SYSTEM = """You are in a house and fulfil a task by commands. Each of your replies is one command:
go to PLACE
take THING from PLACE
move THING to PLACE
heat THING with PLACE
cool THING with PLACE
clean THING with PLACE
use LAMP
After a command you are told what happened. You carry at most one thing. Go from place to place until you see a thing that the task names, and take it at once; take nothing else. Carry it to where it is needed next, and do not move it to any other place."""  # noqa: E501

# A made-up game of the simplest kind, whatever the kind of the task. Lines with ">" are commands.
CHOOSE_EXAMPLE = """You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, a drawer 3, a drawer 2, a drawer 1, a garbagecan 1, and a shelf 1.

Your task is to: put some alarmclock on desk.
> go to drawer 1
You arrive at drawer 1. You open the drawer 1. The drawer 1 is open. In it, you see a creditcard 3.
Task: put some alarmclock on desk. You carry: nothing. Here you can: take creditcard 3 from drawer 1.
> go to drawer 2
You arrive at drawer 2. You open the drawer 2. The drawer 2 is open. In it, you see nothing.
Task: put some alarmclock on desk. You carry: nothing.
> go to shelf 1
You arrive at shelf 1. On the shelf 1, you see a alarmclock 2, a cd 2, a pencil 1, and a statue 1.
Task: put some alarmclock on desk. You carry: nothing. Here you can: take alarmclock 2 from shelf 1, take cd 2 from shelf 1, take pencil 1 from shelf 1, take statue 1 from shelf 1.
> take alarmclock 2 from shelf 1
You pick up the alarmclock 2 from the shelf 1.
Task: put some alarmclock on desk. You carry: alarmclock 2.
> go to desk 1
You arrive at desk 1. On the desk 1, you see a book 1, a desklamp 1, and a keychain 2.
Task: put some alarmclock on desk. You carry: alarmclock 2. Here you can: move alarmclock 2 to desk 1, use desklamp 1.
> move alarmclock 2 to desk 1
The task is fulfilled. Next task.
> OK.
"""  # noqa: E501


class Shown(NamedTuple):
    """Memories of a prompt, by the way in which they are shown."""

    transcripts: tuple[str, ...]  # of won games, in their order
    text: str  # the others; "" for none


def told_apart(memories: str) -> Shown:
    """Takes the transcripts of won games out of the text that shows memories (`memjax.llm.run.prompts`)."""
    transcripts = []

    def kept(memory: re.Match[str]) -> str:
        found = _WON.match(memory[1])
        if found is None:
            return memory[0]
        transcripts.append(found[1])
        return ""

    text = _MEMORY.sub(kept, memories)
    empty = transcripts and "<memory>" not in text  # but for the words around the memories
    return Shown(tuple(transcripts), "" if empty else text)


class Choices:
    """What is offered in one game, and what is told.

    Args:
      game: the game.
      intent: its task in a sentence.
    """

    def __init__(self, game: Game, intent: str):
        self._game, self._intent = game, intent
        self._carried, self._undone = "nothing", ""
        self._given: set[str] = set()  # since something was taken or moved
        self._taken: list[str] = []  # beginnings of commands

    def offered(self, scene: Scene) -> tuple[str, ...]:
        """The commands among which the model chooses, those "go to" last; none where nothing is left."""
        hidden = (*_HIDDEN, *self._taken)
        left = [c for c in scene.commands if not c.startswith(hidden) and c != self._undone]
        if all(c in self._given for c in left if c.startswith(_GO)):
            self._given = set(_here(self._given))
        return tuple(sorted((c for c in left if c not in self._given), key=lambda c: c.startswith(_GO)))

    def told(self, text: str, offered: Sequence[str]) -> str:
        """An observation as the model reads it."""
        here = f" Here you can: {', '.join(_here(offered))}." if _here(offered) else ""
        return f"{text}\nTask: {self._intent} You carry: {self._carried}.{here}"

    def step(self, command: str) -> tuple[Scene, str, list[str]]:
        """Gives a command, and opens the place where it leads. (scene, observation, commands given)."""
        scene = self._game.step(command)
        said, given, self._undone = scene.text.strip(), [command], ""
        verb, _, rest = command.partition(" ")
        place = command.removeprefix(_GO)
        if command.startswith(_GO) and (opening := f"open {place}") in scene.commands:
            scene = self._game.step(opening)
            said = f"You arrive at {place}. {scene.text.strip()}"
            given.append(opening)
        if verb in ("take", "move"):
            thing, _, place = rest.partition(" from ")
            self._carried = thing if verb == "take" else "nothing"
            self._given = set()
        if verb == "take":
            self._taken.append(f"take {thing} from ")
            self._undone = f"move {thing} to {place}"
        self._given.add(command)
        return scene, said, given


def _here(commands: Iterable[str]) -> list[str]:
    return [c for c in commands if not c.startswith(_GO)]
