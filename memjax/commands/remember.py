"""A run of a language-model agent from a config file: `memjax remember`.

A config has the sections `language` (what is remembered, how tasks are played), `chat`, `embed`, `store`,
`budget` and `benchmark`. `memjax.llm.run.state` says what the workdir holds. Launching the same command again
goes on where the run was ended.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memjax.commands.compilation_cache import use_compilation_cache
from memjax.commands.report_language import load_curve, table
from memjax.config_file import load_config
from memjax.llm.clients.config import BudgetConfig, ChatConfig, EmbedConfig, StoreConfig
from memjax.llm.clients.setup import open_models
from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.imported import load_imported
from memjax.llm.run.loop import Stopped, run_language
from memjax.llm.run.progress import LanguageProgress
from memjax.llm.run.prompts import plain
from memjax.llm.run.records import KEY_CHARS
from memjax.llm.run.state import Description
from memjax.llm.sandbox.kernel import hide_memory
from memjax.llm.sandbox.sandbox import check_sandbox
from memjax.llm.tasks.loading import benchmark_entry, load
from memjax.llm.types import Ask, Benchmark, Chat, ChatError
from memjax.runs.imports import Import, import_for_run
from memjax.runs.metrics import METRICS_FILE
from memjax.runs.places import check_local
from memjax.runs.signals import StopOnSignal
from memjax.schema import NonNegativeFloat, OpenSection, PositiveInt, UserPath, one_of, parse
from memjax.types import ConfigError

# May differ between the launches of one run: who is asked, how long and at what price, not what is played.
# The tasks themselves and the embedder are compared apart.
_FREE = (
    "experiment",
    "benchmark.folder",
    "benchmark.limit",
    "benchmark.seed",
    "benchmark.allow_weak_sandbox",
    "benchmark.options.checked",
    "benchmark.options.server",
    "chat.endpoint",
    "chat.token_field",
    "embed",
    "store",
    "budget",
)
_WHY_LOCAL = "experience is kept in SQLite, which needs a disk; copy the folder to the bucket at the end"
_OPEN_ITEM = (str, int, float, type(None))  # what an option of a loader may be; bool is an int


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which tasks are played."""

    name: str  # as registered (memjax.llm.tasks.loading)
    folder: UserPath  # of its data
    limit: PositiveInt | None  # tasks of either split, drawn by `seed`; None: all
    seed: int  # of the draw alone: runs with another language.seed play the same tasks
    options: OpenSection  # the loader's own; "judge" True: the run's model grades (HLE)
    judge_max_tokens: PositiveInt  # of a verdict
    judge_temperature: NonNegativeFloat
    allow_weak_sandbox: bool  # run programs of a model even where the kernel gives no namespaces

    def check(self) -> None:
        """Raises ConfigError for an unknown benchmark, and for options that its loader has not."""
        known = benchmark_entry(self.name, "name").options
        for name, value in self.options.items():
            if name not in known:
                raise ConfigError(f"options.{name}", one_of(name, list(known)), "an unknown option")
            if not _fits(value, known[name]):
                expected = "text or a number" if known[name] is None else type(known[name]).__name__
                raise ConfigError(f"options.{name}", expected, repr(value))


@dataclass(frozen=True)
class RunConfig:
    """All that `memjax remember` runs."""

    experiment: str
    benchmark: BenchmarkConfig
    language: LanguageConfig
    chat: ChatConfig
    embed: EmbedConfig
    store: StoreConfig
    budget: BudgetConfig


def resolve_language(config: Mapping[str, Any] | ConfigDict) -> RunConfig:
    """Checks and freezes a config. Raises ConfigError."""
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    if "language" not in values:
        got = "one of `memjax train`" if "agent" in values else "another"
        raise ConfigError("--config", "a config of `memjax remember`, with a section 'language'", got)
    return parse(RunConfig, values, "")


def load_tasks(config: BenchmarkConfig, chat: Chat | None = None) -> Benchmark:
    """The benchmark's tasks; `chat` grades where `options.judge` asks for it. Raises ConfigError."""
    options: dict[str, Any] = {
        n: os.path.expanduser(v) if isinstance(v, str) else v for n, v in config.options.items()
    }
    if options.get("checked"):
        print(
            "running solutions to see which tasks can be judged here; what is known is kept", file=sys.stderr
        )
    if "judge" in options:
        options["judge"] = _judge(chat, config) if options["judge"] and chat is not None else None
    weak = config.allow_weak_sandbox
    common = {"limit": config.limit, "seed": config.seed}
    return load(config.name, config.folder, allow_weak_sandbox=weak, **common, **options)


def run(
    source: str,
    overrides: Sequence[tuple[str, str]],
    workdir: Path,
    *,
    imports: Sequence[str] = (),
    only_similarities: bool = False,
    cache: bool = True,
) -> int:
    """Runs or resumes the config `source`, or only prints how alike its tasks are. Returns the exit code.

    Raises ConfigError, and RunEnded where the endpoint is down or the budget is spent.
    """
    check_local(workdir, _WHY_LOCAL)
    with use_compilation_cache(cache):  # before anything is compiled, small as it may be
        imported = import_for_run(workdir, imports)
        config = load_config(source, overrides)
        resolve_language(config)  # a mistake is said before anything is compiled or asked
        if only_similarities:
            found = similarities(config, workdir)
            print("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
            return 0
        return remember(config, workdir, imports=imported)


def remember(config: Mapping[str, Any] | ConfigDict, workdir: Path, *, imports: Sequence[Import] = ()) -> int:
    """Runs or resumes to the end and prints what came out; returns the exit code.

    `imports` are recorded in `workdir`.

    Raises ConfigError, and Stopped where the endpoint is down or the budget is spent.
    """
    check_local(workdir, _WHY_LOCAL)
    run, workdir = resolve_language(config), Path(workdir)
    with open_models(run.chat, run.embed, run.store, run.budget, workdir) as models:
        benchmark = load_tasks(run.benchmark, models.chat)
        with (
            keys_put_away(run),
            StopOnSignal() as stop,
            LanguageProgress(workdir, run.language, benchmark) as progress,
        ):
            done = run_language(
                workdir,
                run.language,
                benchmark,
                models.chat,
                models.embedder,
                imported=load_imported(run.language.imported),
                description=description_of(run, benchmark, imports),
                should_stop=lambda: stop.requested,
                report=progress.update,
            )
        spent = models.ledger.spent
    if (workdir / METRICS_FILE).stat().st_size:
        print(table([load_curve(workdir)]))
    tokens = f"{spent.prompt_tokens:,} of prompts and {spent.completion_tokens:,} of replies"
    money = f", {spent.money:.4g} in money" if spent.money else ""
    print(f"tokens asked of the chat model by all launches: {tokens}{money}")
    return 0 if done else stop.exit_code


def similarities(
    config: Mapping[str, Any] | ConfigDict, workdir: Path, most: int = 1_000
) -> dict[str, float]:
    """Mean, deviation and 80 % quantile of the cosines between training tasks: what thresholds depend on.

    The source takes that quantile for `threshold`; its code has the others as `mean` and `std`. At most
    `most` tasks are embedded. Raises ConfigError, and Stopped where the endpoint fails.
    """
    run = resolve_language(config)
    with open_models(run.chat, run.embed, run.store, run.budget, Path(workdir)) as models:
        texts = [plain(task.intent)[:KEY_CHARS] for task in load_tasks(run.benchmark).train[:most]]
        if len(texts) < 2:
            raise ConfigError("benchmark", "at least two training tasks", len(texts))
        try:
            vectors = models.embedder.embed(texts)
        except ChatError as error:
            raise Stopped(f"{error.kind}: {error}") from None
    cosines = (vectors @ vectors.T)[np.triu_indices(len(texts), 1)]
    values = {"mean": cosines.mean(), "std": cosines.std(), "quantile": np.quantile(cosines, 0.8)}
    return {name: float(value) for name, value in values.items()}


def description_of(run: RunConfig, benchmark: Benchmark, imports: Sequence[Import]) -> Description:
    """What config.json and the manifest say beside the loop's own config."""
    settings = json.loads(json.dumps(dataclasses.asdict(run)))
    del settings["language"]
    left_out = len(benchmark.about.get("left_out", ()))
    about = {
        "experiment": run.experiment,
        "benchmark": benchmark.about | {"left_out": left_out},
        "sandbox": _isolation(run.benchmark, benchmark),
    }
    return Description(settings, _FREE, about, tuple(imports))


def _isolation(config: BenchmarkConfig, benchmark: Benchmark) -> dict[str, Any] | None:
    """How programs are isolated on this machine; None where the benchmark runs none."""
    if not benchmark.about.get("runs_programs", benchmark_entry(config.name).runs_programs):
        return None
    isolation = check_sandbox(allow_weak=config.allow_weak_sandbox)
    if isolation.files == "shared":
        hide_memory()  # other processes of this user do not read our environment
        print(
            "memjax: programs that the model writes are not isolated: they have this user's rights over "
            "files and processes (benchmark.allow_weak_sandbox)",
            file=sys.stderr,
        )
    return isolation._asdict()


@contextlib.contextmanager
def keys_put_away(run: RunConfig) -> Iterator[None]:
    """The clients have read the keys by now; nothing that is started from here on inherits them."""
    names = {e.key_env for e in (run.chat.endpoint, run.embed.endpoint) if e is not None and e.key_env}
    keys = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(keys)


def _judge(chat: Chat, config: BenchmarkConfig) -> Ask:
    """The run's own model as a grader; the source has another one (docs/memrl.md)."""
    limits: dict[str, Any] = dict(max_tokens=config.judge_max_tokens, temperature=config.judge_temperature)
    return lambda messages, **offered: chat.complete(messages, **limits, **offered, seed=0)


def _fits(value: Any, default: Any) -> bool:
    """Whether an option may have this value, by its default; a folder of a split may be None."""
    if default is None or value is None:
        return isinstance(value, _OPEN_ITEM) and (default is None or isinstance(default, str))
    return type(value) is type(default) or (type(default) is float and type(value) is int)
