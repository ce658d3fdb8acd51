"""Plays real benchmarks with a local model: does MemRL's memory pay?

  python experiments/launch/batched_model.py MODEL.gguf --long-slots 32
  python -m experiments.language_benchmarks play --runs runs/benchmarks --data runs/data --processes 16
  python -m experiments.language_benchmarks tables --runs runs/benchmarks \\
      --out experiments/results/language_benchmarks
  python -m experiments.language_benchmarks play --runs runs/alfworld --data runs/data \\
      --benchmarks alfworld --arms none memrl_imported rag_imported fixed_imported

All arms but Mem0's facts and Reflexion's reflections write the same content (the record alone), so that RAG
here is MemP as well, and have the same room in the prompt, but for long context; they differ in what they
show. `_imported` arms begin with the solutions of other tasks, a third of them spoiled (the text of another
one): those of the tasks that the benchmark holds out, for ALFWorld transcripts of its games of training.
Those with `_3` show three memories. Tasks of a minibatch do not see each other's memories, those of the
next one do. The same command goes on where it was stopped; equal requests, as those of the arms without a
memory yet, have one reply.

Measure, fixed before the first run: success in the last epoch, paired by task, with a bootstrap over tasks.
Two controls have no memory: "none" is greedy and repeats itself; "pass_at_k" draws samples for the tasks that
"none" did not solve (`--epochs` less one), as many calls with the greedy one as MemRL has. After the last
epoch arms whose memories are of other tasks play the tasks held out, with the memory frozen.
ALFWorld is played by choice, from where four commands of the walkthrough are left, without "pass_at_k".
`--pilot` plays tasks that no table has; settings were chosen on them.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from experiments.language_benchmarks_runs import ARMS, read
from experiments.language_benchmarks_tables import tables
from experiments.language_pilot import HELD_OUT, write_held_out, write_transcripts
from memjax import cli
from memjax.llm.clients.cache import Store
from memjax.llm.clients.config import StoreConfig
from memjax.runs.metrics import METRICS_FILE, read_metrics

EPOCHS, STORE = 3, "store.sqlite"
LAST, TRANSCRIPTS = 4, 100  # commands of a game of ALFWorld; imported games
SETTINGS = {
    "benchmark.limit": "None",
    "language.batch": "60",
    "language.concurrency": "60",
    "language.memory.keep": "1",  # short prompts; and what is solved asks for the same reply again
    "language.memory.capacity": "2048",  # nothing is evicted
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
            "language.max_tokens": "400",
            "language.content_chars": "500",
            "language.inject_chars": "1100",
        },
    ),
    "humaneval": (
        "humaneval",
        {
            "benchmark.options.held_out": f"{HELD_OUT}",
            "language.max_tokens": "400",
            "language.content_chars": "600",
            "language.inject_chars": "1200",
        },
    ),
    "bigcodebench": (
        "bigcodebench",
        {
            "benchmark.limit": "120",
            "benchmark.options.checked": "None",  # tasks that cannot be judged here fail for all arms
            "language.max_tokens": "600",
            "language.content_chars": "2400",
            "language.inject_chars": "2900",
        },
    ),
    "alfworld": (
        "alfworld",
        {
            "benchmark.limit": "30",
            "benchmark.options.choose": "True",
            "benchmark.options.demonstrate": "True",
            "benchmark.options.last": f"{LAST}",
            "benchmark.options.steps": "8",
            "chat.choices": "grammar",
            "language.batch": "10",
            "language.concurrency": "4",
            "language.max_tokens": "32",
            "language.content_chars": "2400",
            "language.inject_chars": "3000",
        },
    ),
}
PLAYED = ["lifelong_db", "humaneval"]  # where none is named
# Settings of a mode, and of arms with an ending.
MODES = {
    "long_context": {"language.inject_chars": "20000"},
    "mem0": {"language.summary_max_tokens": "200"},
    "reflexion": {"language.summaries": "True", "language.summary_max_tokens": "200"},
    "fixed": {"language.memory.step_size": "0"},
}
THREE = 3  # memories, with as much room each


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("play", "tables"))
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), metavar="FOLDER")
    parser.add_argument("--benchmarks", nargs="+", choices=list(BENCHMARKS), default=PLAYED)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--processes", type=int, default=1, help="arms that are played at the same time")
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
    if arguments.processes > 1:
        return play_together(arguments, sys.argv[1:] if argv is None else argv)
    for arm in arguments.arms:
        for benchmark in arguments.benchmarks:
            epochs = arguments.epochs - (arm == "pass_at_k")  # its first call is that of "none"
            changes = {"language.epochs": f"{epochs}"} | dict(x.split("=", 1) for x in arguments.set)
            code = play(
                arguments.runs, arguments.data, benchmark, arm, arguments.url, changes, arguments.pilot
            )
            if code:
                return code
    return 0


def play_together(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Plays the arms in processes of their own, so many at a time, in their order. Returns the worst code."""
    store = StoreConfig(mode="cache", path=f"{arguments.runs / STORE}")
    command = [sys.executable, "-m", "experiments.language_benchmarks", *words, "--processes=1"]
    begun: dict[tuple[str, str], Future[int]] = {}

    def one(benchmark: str, arm: str) -> int:
        if arm == "pass_at_k" and (benchmark, "none") in begun:
            begun[benchmark, "none"].result()  # whose failures it plays
        which = [f"--benchmarks={benchmark}", f"--arms={arm}"]
        with open(arguments.runs / f"{benchmark}-{arm}.log", "a") as log:
            return subprocess.run([*command, *which], stdout=log, stderr=subprocess.STDOUT).returncode

    # Open meanwhile, so that no two processes make the file, and none removes the journal that others use.
    with contextlib.closing(Store(store)), ThreadPoolExecutor(arguments.processes) as pool:
        for arm in arguments.arms:
            for benchmark in arguments.benchmarks:
                begun[benchmark, arm] = pool.submit(one, benchmark, arm)
        codes = {f"{benchmark} {arm}": job.result() for (benchmark, arm), job in begun.items()}
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"ended with an error, as their .log says: {', '.join(failed)}", file=sys.stderr)
    return max(codes.values(), default=0)


def has_epoch(path: Path) -> bool:
    """Whether a run has finished an epoch."""
    file = path / METRICS_FILE
    return file.is_file() and any("success_rate" in row for row in read_metrics(file))


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
        "store.path": f"{runs / STORE}",
    }
    imports = []
    if pilot:
        settings |= {"benchmark.name": f"pilot_{benchmark}"}
        imports = ["--import=experiments.language_pilot"]
    mode = arm.removesuffix("_imported").removesuffix("_3")
    if arm.endswith("_3"):
        room = THREE * int(own["language.inject_chars"])
        settings |= {"language.memory.keep": f"{THREE}", "language.inject_chars": f"{room}"}
    settings |= MODES.get(mode, {})
    if arm.endswith("_imported"):
        file = runs / f"imported_{benchmark}.jsonl"
        if benchmark == "alfworld":
            write_transcripts(data / folder, file, limit=TRANSCRIPTS, last=LAST)
        else:
            write_held_out(benchmark, data / folder, file)
        settings |= {"language.imported.file": f"{file}", "language.imported.spoiled": "0.33"}
    of_others = benchmark == "alfworld" or not arm.endswith("_imported")
    if of_others and mode not in ("pass_at_k", "reflexion") and not pilot:
        settings |= {"language.transfer": "True"}
    if arm == "pass_at_k":
        settings |= {"benchmark.name": f"unsolved_{benchmark}"}
        settings |= {"benchmark.options.of": f"{runs / f'{benchmark}-none'}"}
        imports = ["--import=experiments.language_pilot"]
    mode = "memrl" if mode == "fixed" else mode
    words = [f"--config.{name}={value}" for name, value in (settings | dict(changes)).items()]
    config = f"--config=language:{benchmark}+{mode}+records+local"
    return cli.main(["remember", config, f"--workdir={runs / f'{benchmark}-{arm}'}", *imports, *words])


if __name__ == "__main__":
    raise SystemExit(main())
