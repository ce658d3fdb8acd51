"""Runs a TextWorld game in a sandbox. Only code inside the sandbox imports `alfworld` and `textworld`."""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from memjax.llm.sandbox.sandbox import Limits, Sandbox, SandboxError
from memjax.text import decoded
from memjax.types import ConfigError

_LIMITS = Limits(wall_s=300.0, cpu_s=600)  # on a busy machine loading a game takes long

# Runs inside. Each line of its input is a command and is answered by a line of JSON; "" starts the game.
_PROGRAM = """
import json, os, sys

told = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the packages print is no answer
import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

wanted = textworld.EnvInfos(won=True, admissible_commands=True, feedback=True)
game = textworld.start("game.tw-pddl", wanted, wrappers=[AlfredDemangler()])
for line in sys.stdin:
    command = line.rstrip("\\n")
    state, _, done = game.step(command) if command else (game.reset(), 0, False)
    said = {
        "text": state.feedback,
        "commands": [command for command in state.admissible_commands if command != "help"],
        "won": bool(state.won),
        "done": bool(done),
    }
    told.write(json.dumps(said) + "\\n")
"""


class Scene(NamedTuple):
    """A game's answer to a command."""

    text: str
    commands: tuple[str, ...]  # those that are possible now
    won: bool
    done: bool


class Game(Protocol):
    """A text game. Used by one thread at a time."""

    def reset(self) -> Scene:
        """Starts the game and returns its first scene."""
        ...

    def step(self, command: str) -> Scene:
        """Plays a command and returns the scene after it."""
        ...

    def close(self) -> None:
        """Ends the game."""
        ...


class TextworldGame:
    """A `Game`: one of ALFWorld's game files, played in its own sandbox.

    Args:
      file: the game.
      allow_weak_sandbox: play even where the kernel gives no namespaces.

    Raises:
      ConfigError: a package is missing, or programs cannot be isolated on this machine.
    """

    def __init__(self, file: Path, *, allow_weak_sandbox: bool = False):
        for package in ("alfworld", "textworld"):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    "alfworld", f"the package {package}: pip install alfworld textworld", "none"
                )
        self._sandbox = Sandbox(_LIMITS, allow_weak=allow_weak_sandbox)
        try:
            self._sandbox.talk(
                _PROGRAM, files={"game.tw-pddl": decoded(file.read_bytes(), str(file), "a game")}
            )
        except BaseException:
            self._sandbox.close()
            raise

    def reset(self) -> Scene:
        """Starts the game and returns its first scene. Raises SandboxError where the game does not run."""
        return self._told("")

    def step(self, command: str) -> Scene:
        """Plays one of the possible commands and returns the scene after it. Raises SandboxError."""
        return self._told(" ".join(command.split()))

    def close(self) -> None:
        """Ends the game."""
        self._sandbox.close()

    def _told(self, line: str) -> Scene:
        answer = self._sandbox.say(line)
        try:
            told: dict[str, Any] = json.loads(answer)
            return Scene(told["text"], tuple(told["commands"]), told["won"], told["done"])
        except (ValueError, KeyError, TypeError):
            raise SandboxError(f"the game answered {answer[:200]!r}") from None
