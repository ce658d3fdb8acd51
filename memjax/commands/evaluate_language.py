"""`memjax evaluate` of a language-model agent: the held-out tasks once, with the memory as it is."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memjax.commands.remember import RunConfig, description_of, keys_put_away, load_tasks, resolve_language
from memjax.llm.clients.setup import open_models
from memjax.llm.run.imported import load_imported
from memjax.llm.run.loop import evaluate_language
from memjax.runs.imports import import_for_run
from memjax.runs.workdir import CONFIG_FILE, read_json
from memjax.types import ConfigError


class Score(NamedTuple):
    """How the held-out tasks ended."""

    tasks: int
    solved: int
    skipped: int  # could not be played
    shown: int  # memories, in all
    tokens: int
    reasons: tuple[str, ...]  # why tasks were skipped, each once


def run(workdir: Path, *, imports: Sequence[str] = ()) -> int:
    """Plays the held-out tasks of a run and prints how many were solved. Returns the exit code."""
    score = evaluate(workdir, imports=imports)
    for reason in score.reasons:
        print(f"memjax: a task was skipped: {reason}", file=sys.stderr)
    print(f"held-out tasks  {score.tasks}, {score.skipped} of them skipped")
    print(f"solved          {score.solved} ({score.solved / score.tasks:.1%})")
    print(f"memories        {score.shown / score.tasks:.2f} shown for a task")
    print(f"tokens          {score.tokens:,}")
    return 0


def evaluate(workdir: Path, *, imports: Sequence[str] = ()) -> Score:
    """Plays the held-out tasks with the memory frozen; the log of the run stays as it is.

    Args:
      workdir: of a run of `memjax remember`, finished or not.
      imports: code of the user's own, as of the command.

    Returns:
      The score.

    Raises:
      ConfigError: it is no such run, or its benchmark has no held-out tasks.
      Stopped: the endpoint is down, or the budget of the run is spent.
    """
    workdir = Path(workdir)
    imported = import_for_run(workdir, imports)
    stored = read_json(workdir / CONFIG_FILE)
    config = resolve_language({name: stored[name] for name in RunConfig.__annotations__ if name in stored})
    with open_models(config.chat, config.embed, config.store, config.budget, workdir) as models:
        benchmark = load_tasks(config.benchmark, models.chat)
        if not benchmark.held_out:
            expected = "one with held-out tasks (the run's variant `transfer`, or `split` of own tasks)"
            raise ConfigError("benchmark", expected, f"'{config.benchmark.name}' without")
        with keys_put_away(config):
            played = evaluate_language(
                workdir,
                config.language,
                benchmark,
                models.chat,
                models.embedder,
                imported=load_imported(config.language.imported),
                description=description_of(config, benchmark, imported),
            )
    return Score(
        tasks=len(played),
        solved=sum(attempt.success for _, attempt in played),
        skipped=sum(bool(attempt.error) for _, attempt in played),
        shown=sum(len(plan.recall.rows) for plan, _ in played),
        tokens=sum(attempt.prompt_tokens + attempt.completion_tokens for _, attempt in played),
        reasons=tuple(dict.fromkeys(attempt.error for _, attempt in played if attempt.error)),
    )
