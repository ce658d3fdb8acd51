"""LifelongAgentBench, operating system: requests fulfilled by bash as root (350 train, 150 held out).

Data: `os_interaction_train.json(.gz)` and `os_interaction_val.json(.gz)`, an object of rows by sample index.

Protocol: a script prepares the machine, the model runs bash in turns and says when it has finished, and
another script grades the machine by its exit status. The machine is a sandbox with private copies of the
system's folders. That needs root and a kernel with namespaces. Programs that are not installed on this
machine are missing in the sandbox too.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.sandbox.sandbox import Completed, Limits, Sandbox
from memjax.llm.tasks.dialogue import Dialogue, shortened
from memjax.llm.tasks.reading import check_limit, field, read_splits, texts, typed
from memjax.llm.types import Ask, Benchmark, Outcome
from memjax.types import ConfigError

LIMITS = Limits(wall_s=30.0, cpu_s=30, memory_bytes=1 << 30, disk_bytes=64 << 20)

_SHOWN = 2_000  # characters of output
_SYSTEM = """You are root on a Linux machine and carry out a request by bash. Each of your replies takes one
action.

To run commands, and to see their output:
Act: bash
```bash
ls /
```

When everything that was asked for is done:
Act: finish

Each block runs in a new shell in the folder /, without a terminal: nothing may ask for input."""


@dataclass(eq=False)
class OsTask:
    """One request to one machine."""

    id: str
    intent: str
    prepare: str  # script that prepares the machine, "" for none
    judge: str  # script that grades it; exit status 0: right
    reference: str  # script that fulfils the request
    turns: int  # the most replies
    limits: Limits = LIMITS

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Plays the task once in a new sandbox, as `Task.attempt`. ConfigError where none can be made."""
        with Sandbox(self.limits, administrator=True) as machine:
            return self._play(Dialogue(ask, _SYSTEM, memories), machine)

    def reference_works(self) -> bool:
        """Whether the reference script fulfils the request on this machine."""
        with Sandbox(self.limits, administrator=True) as machine:
            if not self._prepared(machine):
                return False
            machine.shell(self.reference)
            return self._right(machine)

    def _play(self, dialogue: Dialogue, machine: Sandbox) -> Outcome:
        if not self._prepared(machine):
            return dialogue.outcome(self.id, False, "the machine could not be prepared")
        said, done = self.intent, ""
        for _ in range(self.turns):
            action, content = parse(dialogue.say(said))
            if action == "invalid":
                return dialogue.outcome(self.id, False, content, solution=done)
            if action == "finish":
                right = self._right(machine)
                why = "" if right else "the machine is not as it should be"
                return dialogue.outcome(self.id, right, why, solution=done)
            said = _told(machine.shell(content), self.limits)
            done += f"{content.strip()}\n"
        dialogue.note(said)
        return dialogue.outcome(self.id, False, f"not finished within {self.turns} turns", solution=done)

    def _prepared(self, machine: Sandbox) -> bool:
        return not self.prepare.strip() or machine.shell(self.prepare).code == 0

    def _right(self, machine: Sandbox) -> bool:
        completed = machine.shell(self.judge)
        return completed.code == 0 and not completed.timed_out


def _told(completed: Completed, limits: Limits) -> str:
    if completed.timed_out:
        return f"The commands were ended after {limits.wall_s:g} seconds."
    output = shortened((completed.out + completed.err).strip(), _SHOWN)
    return f"Output:\n{output}" if output else "There was no output."


def parse(reply: str) -> tuple[str, str]:
    """("bash", script), ("finish", "") or ("invalid", why): the first action that a reply takes."""
    action = re.search(r"Act:\s*(bash|finish)", reply, re.IGNORECASE)
    if action is None:
        return "invalid", "the reply takes no action"
    if action[1].lower() == "finish":
        return "finish", ""
    pattern = r"```(?:bash|sh|shell)?[ \t]*\n(.*?)(?:```|\Z)"
    block = re.search(pattern, reply[action.end() :], re.DOTALL | re.IGNORECASE)
    return ("bash", block[1]) if block else ("invalid", "there is no block of bash")


def load_lifelong_os(
    folder: str | Path, *, limit: int | None = None, seed: int = 0, turns: int = 15, limits: Limits = LIMITS
) -> Benchmark:
    """The operating-system tasks.

    Args:
      folder: of the data (see the top of this file).
      limit: most tasks of each split; None: all.
      seed: draws them.
      turns: the most replies in one attempt.
      limits: of each command in the sandbox.

    Returns:
      The benchmark.

    Raises:
      ConfigError: a file is missing or a row has another format.
    """
    check_limit(limit)
    make = partial(_task, turns=turns, limits=limits)
    train, held_out = read_splits(folder, "os_interaction", make, limit=limit, seed=seed)
    about = {
        "source": "LifelongAgentBench OS, split of MemTensor/MemRL (7:3, seed 42)",
        "train": len(train),
        "held_out": len(held_out),
        "left_out": [],
    }
    return Benchmark("lifelong_os", train, held_out, about)


def _task(key: str, row: Any, where: str, turns: int, limits: Limits) -> OsTask:
    row = typed(row, dict, where)
    info = field(row, "evaluation_info", dict, where)
    inner = f"{where}: evaluation_info"
    texts(row, "skill_list", where)
    return OsTask(
        id=f"os/{key}",
        intent=field(row, "instruction", str, where),
        prepare=_script(row, "initialization_command_item", where),
        judge=_script(info, "evaluation_command_item", inner),
        reference=_script(info, "ground_truth_command_item", inner),
        turns=turns,
        limits=limits,
    )


def _script(row: dict[str, Any], name: str, where: str) -> str:
    item = field(row, name, dict, where)
    kind = field(item, "command_name", str, f"{where}: {name}")
    if kind != "bash":
        raise ConfigError(f"{where}: {name}: command_name", "bash", kind)
    return field(item, "script", str, f"{where}: {name}")
