"""A frozen policy on a stream of grid tasks, with and without MemRL's memory.

    python -m experiments.memrl_stream                # trains the policy if there is none; minutes on 2 cores

Source: the method is MemRL's (arXiv 2601.03192, `paper` preset, one memory injected), the protocol its
runtime learning over epochs (success in the last epoch, share of tasks solved at least once) and transfer
with the memory frozen; policy, map and stream are ours (`experiments/memrl_policy.py`,
`memjax/envs/task_stream.py`).
Expected: at least 20 points of success from memory alone, and more than retrieval by similarity. All seeds of
a method are one compiled program. Writes `success.csv`, `curves.csv`, `figure.png` and `README.md` into
`experiments/results/memrl_stream`.
"""

import argparse
import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.memrl_policy import FILE, fingerprint, play, trained
from experiments.memrl_simulator import interval
from experiments.result_folder import device_of
from memjax.agents.memrl.agent import Found, MemRL, make_memrl, preset
from memjax.agents.memrl.stream import Tamper, Trace, learn_stream
from memjax.commands.figures import colour_of, legend_below, plain, pyplot, save_figure, seeds_of
from memjax.envs.task_stream import STEPS, Experience, StreamConfig, make_stream, plant, word
from memjax.runs.workdir import describe_launch
from memjax.types import Array, Key, PyTree

OUT = Path(__file__).parent / "results" / "memrl_stream"
BATCH = 32  # tasks that retrieve before their rewards arrive
TRANSFER = 2  # epochs with the memory frozen, at the end
PLANTER = 1  # writer of the planted experiences
STREAM = StreamConfig(topics=16, tasks=4, key_dim=32, likeness=0.85, noise=0.4, planted=2, far=5)
STREAMS = {"contradictory": STREAM, "nothing planted": replace(STREAM, planted=0)}
COMMON: dict[str, Any] = dict(recall=10, keep=1, threshold=0.5)


def empty(found: Found, key: Key) -> Found:
    """Control: nothing is injected."""
    del key
    return found._replace(mask=jnp.zeros_like(found.mask))


def shuffled(found: Found, key: Key) -> Found:
    """Control: every task gets the experience that was retrieved for another."""
    order = jax.random.permutation(key, found.mask.shape[0])
    return found._replace(payload=jax.tree.map(lambda x: x[order], found.payload), mask=found.mask[order])


@dataclass(frozen=True)
class Method:
    """What differs from MemRL."""

    changes: Mapping[str, Any]
    tamper: Tamper | None = None


METHODS = {
    "MemRL": Method({}),
    "RAG (similarity only)": Method(dict(weight=0.0)),
    "utility only": Method(dict(weight=1.0)),
    "MemRL, successes begin at 1": Method(dict(initial_success=1.0)),
    "shuffled": Method({}, shuffled),
    "no memory": Method({}, empty),
}
BASELINES = ("RAG (similarity only)", "utility only", "shuffled", "no memory")
BOTH = ("MemRL", "RAG (similarity only)", "no memory")  # methods run on every stream


@dataclass(frozen=True)
class Outcome:
    """All seeds of a method on a stream; arrays [seeds, rounds, BATCH]."""

    trace: Trace
    tasks: np.ndarray
    rounds: int  # of an epoch
    rate: float  # attempts a second, compilation apart

    def epochs(self, field: str) -> np.ndarray:
        """[seeds, epochs] mean of a field."""
        x = np.asarray(getattr(self.trace, field), np.float64)
        return x.reshape(x.shape[0], -1, self.rounds * BATCH).mean(2)

    @property
    def learning(self) -> np.ndarray:
        """[seeds, epochs] success while learning."""
        return self.epochs("success")[:, :-TRANSFER]

    @property
    def last(self) -> np.ndarray:
        """[seeds] success in the last epoch of learning."""
        return self.learning[:, -1]

    @property
    def frozen(self) -> np.ndarray:
        """[seeds] success with the memory frozen."""
        return self.epochs("success")[:, -TRANSFER:].mean(1)

    @property
    def ever(self) -> np.ndarray:
        """[seeds] share of tasks solved at least once while learning."""
        seeds, learned = len(self.tasks), self.learning.shape[1] * self.rounds
        success = np.asarray(self.trace.success)[:, :learned].reshape(seeds, -1)
        tasks = self.tasks[:, :learned].reshape(seeds, -1)
        solved = [len(np.unique(t[s])) / len(np.unique(t)) for t, s in zip(tasks, success, strict=True)]
        return np.array(solved)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    from memjax.commands.compilation_cache import use_compilation_cache

    use_compilation_cache()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="streams and runs per method (default 5)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of learning (default 20)")
    parser.add_argument("--policy", type=Path, default=FILE, help="parameters; trained if not there")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    params = trained(options.policy)
    before = fingerprint(params)
    found = {}
    for stream, config in STREAMS.items():
        for name, method in METHODS.items():
            if stream != "contradictory" and name not in BOTH:
                continue
            found[stream, name] = each = measure(config, method, params, options.seeds, options.epochs)
            print(f"{stream}: {name}: {each.last.mean():.3f}, {each.rate:,.0f} attempts/s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_tables(found, options.out)
    draw(options.out / "curves.csv", options.out / "figure.png")
    same = fingerprint(params) == before
    text = readme(found, options.seeds, options.epochs, before, same)
    (options.out / "README.md").write_text(text, encoding="utf-8")


def measure(config: StreamConfig, method: Method, params: PyTree, seeds: int, epochs: int) -> Outcome:
    """Runs a method on a stream of its own for each seed, 0 and up."""
    count = config.topics * config.tasks
    rounds = count // BATCH
    memories = count * (config.planted + epochs)
    chosen = preset("paper", "os", capacity=memories, **{**COMMON, **method.changes})
    memrl = make_memrl(chosen, config.key_dim, _experience())
    numbers = jnp.arange(seeds)
    program = jax.jit(jax.vmap(partial(run, config, memrl, method.tamper, epochs), in_axes=(None, 0)))
    compiled = program.lower(params, numbers).compile()
    start = time.perf_counter()
    trace, tasks = jax.block_until_ready(compiled(params, numbers))
    rate = tasks.size / (time.perf_counter() - start)
    return Outcome(jax.tree.map(np.asarray, trace), np.asarray(tasks), rounds, rate)


def run(
    config: StreamConfig, memrl: MemRL, tamper: Tamper | None, epochs: int, params: PyTree, seed: Array
) -> tuple[Trace, Array]:
    """Epochs of learning, then of transfer, of one seed: the trace and the tasks [rounds, BATCH]."""
    keys = jax.random.split(jax.random.key(seed), 6)
    stream = make_stream(config, keys[0])
    state = memrl.init()
    if config.planted:
        about, intents, claimed = plant(config, stream, keys[1])
        by = jnp.full(about.shape, PLANTER)
        state, _ = memrl.insert(state, intents, claimed, task=about, writer=by)
    count = config.topics * config.tasks
    orders = jax.vmap(lambda k: jax.random.permutation(k, count))(
        jax.random.split(keys[2], epochs + TRANSFER)
    )
    tasks = orders.reshape(-1, BATCH)
    words = jax.random.split(keys[3], tasks.shape[0])
    intents = jax.vmap(partial(word, config, stream))(tasks, words)
    attempt = partial(play, config, params, stream)
    learned = epochs * count // BATCH
    state, first = learn_stream(
        memrl, attempt, state, tasks[:learned], intents[:learned], keys[4], tamper=tamper
    )
    _, second = learn_stream(
        memrl, attempt, state, tasks[learned:], intents[learned:], keys[5], tamper=tamper, write=False
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), tasks


def _experience() -> Experience:
    steps, number = jnp.zeros(STEPS, jnp.int32), jnp.zeros((), jnp.int32)
    return Experience(steps, steps, number, jnp.zeros((), bool))


def write_tables(found: Mapping[tuple[str, str], Outcome], out: Path) -> None:
    """One line per stream, method and seed; one per epoch of each as well."""
    with open(out / "success.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["stream", "method", "seed", "last_epoch", "solved_once", "memory_frozen"])
        for (stream, method), each in found.items():
            for seed, numbers in enumerate(zip(each.last, each.ever, each.frozen, strict=True)):
                rows.writerow([stream, method, seed, *(f"{x:.6f}" for x in numbers)])
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["stream", "method", "seed", "epoch", "success", "injected", "same_task", "planted"])
        for (stream, method), each in found.items():
            planted = replace(each, trace=each.trace._replace(source=each.trace.source == PLANTER))
            fields = [each.epochs(f) for f in ("success", "injected", "same_task")]
            fields.append(planted.epochs("source"))
            for seed in range(len(each.tasks)):
                for epoch in range(fields[0].shape[1]):
                    rows.writerow([stream, method, seed, epoch, *(f"{x[seed, epoch]:.6f}" for x in fields)])


def draw(curves: Path, path: Path) -> None:
    """Success by epoch of learning, a panel for each stream, from `curves.csv`."""
    plt = pyplot()
    success: dict[tuple[str, str], dict[int, list[float]]] = {}
    with open(curves, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seeds = success.setdefault((row["stream"], row["method"]), {})
            seeds.setdefault(int(row["seed"]), []).append(float(row["success"]))
    figure, axes = plt.subplots(1, len(STREAMS), figsize=(11, 4.6), layout="constrained", sharey=True)
    lines: dict[Any, str] = {}
    for axis, stream in zip(axes, STREAMS, strict=True):
        for i, method in enumerate(METHODS):
            if (stream, method) not in success:
                continue
            values = np.asarray(list(success[stream, method].values()))[:, :-TRANSFER]
            both = np.array([interval(values[:, e]) for e in range(values.shape[1])])
            epochs, colour = np.arange(1, len(both) + 1), colour_of(i)
            (line,) = axis.plot(epochs, both[:, 0], color=colour, linewidth=2.4 if i == 0 else 1.4)
            if stream == next(iter(STREAMS)):
                lines[line] = seeds_of(method, len(values))
            low, high = both[:, 0] - both[:, 1], both[:, 0] + both[:, 1]
            axis.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set(xlabel="epoch", title=stream, ylim=(0, 1), xlim=(1, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(axis)
    axes[0].set_ylabel("success of the frozen policy")
    legend_below(figure, lines, columns=3)
    figure.suptitle("mean over seeds with its 95 % interval", fontsize=11)
    save_figure(figure, path)
    plt.close(figure)


def readme(found: Mapping[tuple[str, str], Outcome], seeds: int, epochs: int, print_: str, same: bool) -> str:
    """What was run and what came out."""
    device = device_of(describe_launch())
    count, c = STREAM.topics * STREAM.tasks, STREAM
    unchanged = "the same before and after" if same else "NOT the same after as before"
    text = [
        "# A frozen policy on a stream of tasks",
        "",
        f"Generated by `python -m experiments.memrl_stream --seeds {seeds} --epochs {epochs}`, {device}, jax"
        f" {jax.__version__}; seeds 0 to {seeds - 1}, each with a stream of its own: {count} tasks in"
        f" {c.topics} topics, all once an epoch in rounds of {BATCH}, {c.planted} contradictory experiences"
        f" planted for each task, {STEPS} steps an attempt, cosine of intents within a topic about"
        f" {c.likeness}, noise of the wording {c.noise}.",
        "",
        "The policy (a Decision Transformer with one experience as prefix) was trained once, is one and the"
        f" same in every row and never changes: sha256 of its parameters {print_}..., {unchanged}. It"
        f" never sees an intent or a goal. All methods are the `paper` preset with"
        f" {', '.join(f'{k} {v}' for k, v in COMMON.items())}, rewards +1 and -1, and store each attempt.",
        "",
        "Cells: mean over the seeds and half width of its 95 % interval. 'Memory frozen' are"
        f" {TRANSFER} more epochs, worded anew, in which nothing is stored or learned. 'MemRL has more' is"
        " the paired difference in the last epoch.",
    ]
    for stream in STREAMS:
        text += ["", f"## {stream[0].upper()}{stream[1:]}", "", *table(found, stream)]
    lines = [f"- {line}" for line in verdicts(found)]
    return "\n".join([*text, "", "## Reading", "", *lines, "", "![success](figure.png)", ""])


def table(found: Mapping[tuple[str, str], Outcome], stream: str) -> list[str]:
    """Rows of Markdown."""
    lines = ["| method | first epoch | last epoch | solved once | memory frozen | MemRL has more |"]
    lines.append("|---" * 6 + "|")
    for method in (m for s, m in found if s == stream):
        each = found[stream, method]
        cells = [interval(x) for x in (each.learning[:, 0], each.last, each.ever, each.frozen)]
        cells += [] if method == "MemRL" else [interval(found[stream, "MemRL"].last - each.last)]
        texts = [f"{mean:.3f} ± {half:.3f}" for mean, half in cells] + [""] * (5 - len(cells))
        lines.append(f"| {method} | " + " | ".join(texts) + " |")
    return lines


def verdicts(found: Mapping[tuple[str, str], Outcome]) -> list[str]:
    """In words: by how many points MemRL is above each baseline in the last epoch."""
    lines = []
    for stream in STREAMS:
        said = []
        for method in (m for s, m in found if s == stream and m in BASELINES):
            mean, half = interval(100 * (found[stream, "MemRL"].last - found[stream, method].last))
            word = "above" if mean > half else "below" if mean < -half else "not told apart from"
            said.append(f"{word} {method} ({mean:+.1f} ± {half:.1f} points)")
        lines.append(f"{stream}: in the last epoch MemRL is " + ", ".join(said) + ".")
    return lines


if __name__ == "__main__":
    main()
