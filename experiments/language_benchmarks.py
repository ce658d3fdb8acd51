"""Plays two real benchmarks with a local model, one arm after another: does MemRL's memory pay?

  python experiments/launch/local_model.py MODEL.gguf --context 16384 --parallel 8
  python -m experiments.language_benchmarks play --runs runs/benchmarks --data runs/data
  python -m experiments.language_benchmarks tables --runs runs/benchmarks \\
      --out experiments/results/language_benchmarks

All arms write the same content (the record alone), so that RAG here is MemP as well, and have the same room
in the prompt; they differ in what they show. A minibatch is a whole epoch: nobody has a memory in the first
one, and greedy arms share its replies, as those to any other equal request, through the store. The same
command goes on where it was stopped. `_imported` arms begin with the solutions of other tasks, those that the
benchmark holds out, a third of them spoiled (the text of another one).

Measure, fixed before the first run: success in the last epoch, paired by task, with a bootstrap over tasks.
Two controls have no memory: "none" is greedy and repeats itself; "pass_at_k" draws samples for the tasks that
"none" did not solve (`--epochs` less one), as many calls with the greedy one as MemRL has.
`--pilot` plays tasks that no table has; settings were chosen on them.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.language_benchmarks_tables import ARMS, read, tables
from experiments.language_pilot import HELD_OUT, write_held_out
from memjax import cli
from memjax.runs.metrics import METRICS_FILE, read_metrics

TASKS, EPOCHS = 60, 3
SETTINGS = {
    "benchmark.limit": f"{TASKS}",
    "language.batch": f"{TASKS}",
    "language.concurrency": "8",
    "language.memory.keep": "1",  # short prompts; and what is solved asks for the same reply again
    "language.memory.initial_success": "0.5",
    "language.memory.initial_failure": "-0.5",
    # Failures are stored, but MemRL does not show them: no memory below this is shown. In the pilot the model
    # wrote the failed statement or program that it was shown again, word for word (4 of 4).
    "language.memory.minimum": "-0.4",
}
# The folder of the data, and settings of a benchmark.
BENCHMARKS: dict[str, tuple[str, dict[str, str]]] = {
    "lifelong_db": (
        "lifelongagentbench",
        {
            "language.max_tokens": "160",  # of the 60 tasks 8 need more for their answer: nobody solves them
            "language.content_chars": "500",
            "language.inject_chars": "1100",
        },
    ),
    "humaneval": (
        "humaneval",
        {
            "benchmark.options.held_out": f"{HELD_OUT}",
            "language.max_tokens": "320",
            "language.content_chars": "600",
            "language.inject_chars": "1200",
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("play", "tables"))
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), metavar="FOLDER")
    parser.add_argument("--benchmarks", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--pilot", action="store_true", help="play tasks that no table has")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    if arguments.what == "tables":
        if arguments.out is None:
            parser.error("tables: --out is required")
        places = [(b, a, arguments.runs / f"{b}-{a}") for b in arguments.benchmarks for a in arguments.arms]
        found = [place for place in places if has_epoch(place[-1])]
        tables([read(benchmark, arm, path) for benchmark, arm, path in found], arguments.out)
        return 0
    for benchmark in arguments.benchmarks:
        for arm in arguments.arms:
            epochs = arguments.epochs - (arm == "pass_at_k")  # its first call is that of "none"
            changes = {"language.epochs": f"{epochs}"} | dict(x.split("=", 1) for x in arguments.set)
            code = play(
                arguments.runs, arguments.data, benchmark, arm, arguments.url, changes, arguments.pilot
            )
            if code:
                return code
    return 0


def has_epoch(path: Path) -> bool:
    """Whether a run has finished an epoch, in one minibatch, beside what it may have imported."""
    return (path / METRICS_FILE).is_file() and any(row["tasks"] for row in read_metrics(path / METRICS_FILE))


def play(
    runs: Path,
    data: Path,
    benchmark: str,
    arm: str,
    url: str,
    changes: Mapping[str, str],
    pilot: bool = False,
) -> int:
    """One run, or what is left of it. Returns the exit code of `memjax remember`."""
    folder, own = BENCHMARKS[benchmark]
    settings = SETTINGS | own
    settings |= {
        "benchmark.folder": f"{data / folder}",
        "chat.endpoint.base_url": url,
        "store.path": f"{runs / 'store.sqlite'}",
    }
    imports = []
    if pilot:
        settings |= {"benchmark.name": f"pilot_{benchmark}"}
        imports = ["--import=experiments.language_pilot"]
    mode, has_imports = arm.removesuffix("_imported"), arm.endswith("_imported")
    if has_imports:
        file = runs / f"imported_{benchmark}.jsonl"
        write_held_out(benchmark, data / folder, file)
        settings |= {"language.imported.file": f"{file}", "language.imported.spoiled": "0.33"}
    if arm == "pass_at_k":
        settings |= {"benchmark.name": f"unsolved_{benchmark}"}
        settings |= {"benchmark.options.of": f"{runs / f'{benchmark}-none'}"}
        imports = ["--import=experiments.language_pilot"]
    if mode == "fixed":
        mode, settings = "memrl", settings | {"language.memory.step_size": "0"}
    words = [f"--config.{name}={value}" for name, value in (settings | dict(changes)).items()]
    config = f"--config=language:{benchmark}+{mode}+records+local"
    return cli.main(["remember", config, f"--workdir={runs / f'{benchmark}-{arm}'}", *imports, *words])


if __name__ == "__main__":
    raise SystemExit(main())
