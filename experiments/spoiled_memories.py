"""A third of the memories that were there before are wrong: what utilities are for. Simulated.

  python -m experiments.spoiled_memories --runs runs/spoiled --out experiments/results/spoiled_memories

Forty requests of eight kinds, each kind with one right recipe. Six memories of each kind are imported as
successes, a third of them with the text of another memory. The agent stands for a model: it follows the first
recipe that it is shown, and succeeds in 95 % of the cases if it is the right one; without one it succeeds in
20 %. Modes differ in what they choose alone and write the same content. Settings were fixed before the first
run (preset `neutral`); a seed changes chance and what is spoiled. It shows the loop and its analyses at work,
and says nothing about what a language model gains. Two minutes on two busy cores.
"""

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.language_results import Run, write
from memjax.agents.memrl.config import preset
from memjax.commands.report_language import load_curve
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.config import LanguageConfig, Mode
from memjax.llm.run.imported import Imported, ImportedConfig, spoil
from memjax.llm.run.loop import run_language
from memjax.llm.run.state import Description
from memjax.llm.types import Ask, Benchmark, Chat, Message, Outcome, Reply

KINDS = (
    *("mend a broken lamp", "track a late parcel", "count files in a folder", "paint the old fence"),
    *("sort a table of users", "boil water in the kitchen", "renew a lost passport", "tune a piano"),
)
MODES: tuple[Mode, ...] = ("memrl", "rag", "sharing", "none")
TASKS, EPOCHS, IMPORTED, SEEDS = 40, 5, 6, 10
FOLLOWED, ALONE = 0.95, 0.2  # chance of success with the right recipe, and without any


class Simulated:
    """Stands for a chat model; its replies are numbers of chance, by the seed of the request."""

    name = "simulated"

    def complete(self, messages: Sequence[Message], *, seed: int, **_: Any) -> Reply:
        """A number from 0 to 1."""
        chance = random.Random(f"{seed}/{messages[-1].content}").random()
        return Reply(repr(chance), sum(len(m.content) for m in messages) // 4, 4)


SIMULATED = Simulated()


class Request:
    """One request of a kind; solved by the kind's recipe."""

    def __init__(self, number: int):
        self.kind = number % len(KINDS)
        self.id, self.intent = f"request-{number}", f"{KINDS[self.kind]}, order {number}"

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Follows the first recipe that it is shown among the successes."""
        shown = re.findall(r"recipe-\d+", memories.partition("These ended badly")[0])
        chance = float(ask([Message("user", f"{memories}\n{self.intent}")]).text)
        right = shown[:1] == [f"recipe-{self.kind}"]
        solved = chance < (FOLLOWED if right else 0.0 if shown else ALONE)
        tried = f"recipe-{self.kind}" if solved else (shown or ["nothing"])[0]
        return Outcome(self.id, solved, float(solved), f"used {tried}", "", solution=tried)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args(argv)
    folders = []
    for mode in MODES:
        for seed in range(arguments.seeds):
            folders.append(arguments.runs / f"{mode}_{seed}")
            play(folders[-1], mode, seed, arguments.epochs)
    write([Run(path, load_curve(path)) for path in folders], arguments.out)


def play(
    folder: Path,
    mode: Mode,
    seed: int,
    epochs: int,
    *,
    utility: float | None = None,
    model: Chat = SIMULATED,
    **memory: Any,
) -> None:
    """One run; continued where it was ended.

    Args:
      folder: of the run.
      mode: what is chosen.
      seed: of chance and of what is spoiled.
      epochs: passes over the requests.
      utility: first one of imported memories; None: the reward of a success.
      model: stands for the language model.
      **memory: fields of `MemRLConfig` that differ from the preset.
    """
    tasks = [Request(number) for number in range(TASKS)]
    known = [
        Imported(f"{name}, order {100 + i}", f"recipe-{kind}", True, utility, "book", 2)
        for kind, name in enumerate(KINDS)
        for i in range(IMPORTED)
    ]
    about = {"source": f"simulated requests, {len(known)} imported memories, a third of them spoiled"}
    run_language(
        folder,
        config(mode, seed, epochs, **memory),
        Benchmark("requests", tasks, (), about),
        model,
        HashedNgrams(128),
        imported=spoil(known, 1 / 3, random.Random(seed)),
        description=Description(
            {"experiment": "spoiled memories"}, about={"experiment": "spoiled memories", "benchmark": about}
        ),
    )


def config(mode: Mode, seed: int, epochs: int, **memory: Any) -> LanguageConfig:
    """The same for all modes; `memory` are fields of the preset that differ."""
    return LanguageConfig(
        mode=mode,
        seed=seed,
        epochs=epochs,
        batch=4,
        shuffle=False,
        concurrency=1,
        overlap=0,
        transfer=False,
        temperature=1.0,
        max_tokens=8,
        summary_temperature=0.0,
        summary_max_tokens=8,
        summaries=False,
        own_reflection=False,
        content_chars=400,
        inject_chars=1_200,
        reward_success=1.0,
        reward_failure=-1.0,
        graded=False,
        memory=preset("neutral", capacity=512, **memory),
        imported=ImportedConfig("given by the program", None, 1 / 3, seed),
        shards=1,
        save_every=100,
        give_up_after=4,
    )


if __name__ == "__main__":
    main()
