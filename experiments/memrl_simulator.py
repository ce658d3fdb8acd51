"""Regret of choosing memories, in a simulator where every success probability is known.

    python -m experiments.memrl_simulator             # about a minute on 2 cores
    python -m experiments.memrl_simulator --seeds 3 --rounds 50 --out /tmp/look

Source: the method is MemRL's (arXiv 2601.03192, `paper` preset); the simulator is ours
(`memjax/envs/memory_bandit.py`). Expected: MemRL's regret below similarity only and utility only. Each run is
one compiled program, all seeds side by side. Writes `regret.csv` (one line per world, method and seed),
`curves.csv`, `figure.png` and `README.md` into `experiments/results/memrl_simulator`.
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

from experiments.result_folder import device_of
from memjax.agents.memrl.agent import MemRL, make_memrl, preset
from memjax.commands.figures import colour_of, legend_beside, plain, pyplot, save_figure, style_of
from memjax.envs.memory_bandit import BanditConfig, draw_tasks, make_world, play
from memjax.runs.workdir import describe_launch
from memjax.types import Array, Key

OUT = Path(__file__).parent / "results" / "memrl_simulator"
BATCH = 64  # tasks that retrieve before their rewards arrive
POINTS = 25  # of a curve
MAIN = BanditConfig(
    families=8,
    clusters=4,
    memories=8,
    key_dim=32,
    likeness=0.6,
    noise=0.6,
    base=0.3,
    harm=0.5,
    quality=(0.1, 0.95),
)
WORLDS = {
    "main": MAIN,
    "families hard to tell apart": replace(MAIN, likeness=0.9),
    "clusters easy to tell apart": replace(MAIN, likeness=0.2, noise=0.3),
    "memories of a cluster equally good": replace(MAIN, quality=(0.9, 0.9)),
}
# The paper's preset with one memory injected, so that a choice is one arm; what differs is said.
COMMON: dict[str, Any] = dict(recall=10, keep=1, threshold=0.5)
METHODS: dict[str, dict[str, Any]] = {
    "MemRL": {},
    "similarity only": dict(weight=0.0),
    "utility only": dict(weight=1.0),
    "utility only, no gate": dict(weight=1.0, threshold=-1.0, recall=10**9),
    "random": dict(epsilon=1.0),
    "MemRL, lambda 0.25": dict(weight=0.25),
    "MemRL, lambda 0.75": dict(weight=0.75),
    "MemRL, bonus 0.5": dict(bonus=0.5),
    "MemRL, step 1/(n+1)": dict(step="mean"),
    "MemRL, k2 = 3": dict(keep=3),
    "oracle": {},
}
BASELINES = ("similarity only", "utility only", "random")
ELSEWHERE = ("MemRL", *BASELINES)  # methods run in the other worlds


@dataclass(frozen=True)
class Outcome:
    """All seeds of one method in one world."""

    regret: np.ndarray  # [seeds, rounds], mean of a round's tasks, in probability of success
    success: np.ndarray  # [seeds, rounds], expected success
    rate: float  # task steps a second, compilation apart


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="worlds and runs per method (default 10)")
    parser.add_argument("--rounds", type=int, default=250, help=f"rounds of {BATCH} tasks (default 250)")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    found = {}
    for world, config in WORLDS.items():
        methods = METHODS if world == "main" else {m: METHODS[m] for m in ELSEWHERE}
        for method, changes in methods.items():
            found[world, method] = measure(config, method, changes, options.seeds, options.rounds)
            each = found[world, method]
            print(f"{world}: {method}: regret {each.regret.mean():.4f}, {each.rate:,.0f} steps/s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_tables(found, options.out)
    draw(options.out / "curves.csv", options.out / "figure.png")
    (options.out / "README.md").write_text(readme(found, options.seeds, options.rounds), encoding="utf-8")


def measure(
    config: BanditConfig, method: str, changes: Mapping[str, Any], seeds: int, rounds: int
) -> Outcome:
    """Runs a method in a world of its own for each seed, 0 and up."""
    memories = config.families * config.clusters * config.memories
    options = {**COMMON, **changes}
    options["recall"] = min(options["recall"], memories)
    chosen = preset("paper", "os", capacity=memories, **options)
    memrl = make_memrl(chosen, config.key_dim, jnp.zeros((), jnp.int32))
    numbers = jnp.arange(seeds)
    program = jax.jit(jax.vmap(partial(run, config, memrl, rounds, method == "oracle")))
    compiled = program.lower(numbers).compile()
    start = time.perf_counter()
    regret, success = jax.block_until_ready(compiled(numbers))
    seconds = time.perf_counter() - start
    return Outcome(np.asarray(regret), np.asarray(success), seeds * rounds * BATCH / seconds)


def run(config: BanditConfig, memrl: MemRL, rounds: int, oracle: bool, seed: Array) -> tuple[Array, Array]:
    """Regret [rounds] and expected success [rounds] of one seed, the memory filled once at the start."""
    make, start, go = jax.random.split(jax.random.key(seed), 3)
    world = make_world(config, make)
    # Why: in a random order, or the slot that settles ties would tell the cluster.
    order = jax.random.permutation(start, memrl.config.capacity).astype(jnp.int32)
    state, _ = memrl.insert(memrl.init(), world.intents[order], order)

    def step(state: Any, key: Key) -> tuple[Any, tuple[Array, Array]]:
        draw, explore, act = jax.random.split(key, 3)
        clusters, intents = draw_tasks(world, draw, BATCH)
        found = memrl.retrieve(state, intents, key=explore)
        chosen = found.payload
        if oracle:
            chosen = jnp.argmax(world.probability[clusters], axis=1).astype(jnp.int32)[:, None]
        played = play(world, clusters, chosen, found.mask | oracle, act)
        state = memrl.credit(state, found, jnp.where(played.success, 1.0, -1.0))
        return state, (jnp.mean(played.best - played.probability), jnp.mean(played.probability))

    return jax.lax.scan(step, state, jax.random.split(go, rounds))[1]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval over seeds (Student's t)."""
    from scipy.stats import t

    n = len(values)
    width = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(width)


def write_tables(found: Mapping[tuple[str, str], Outcome], out: Path) -> None:
    """One line per world, method and seed; and the curves of the main world."""
    with open(out / "regret.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["world", "method", "seed", "regret", "late_regret", "success"])
        for (world, method), each in found.items():
            late = each.regret[:, -max(1, each.regret.shape[1] // 5) :].mean(1)
            for seed, regret in enumerate(each.regret.mean(1)):
                numbers = (regret, late[seed], each.success[seed].mean())
                rows.writerow([world, method, seed, *(f"{x:.6f}" for x in numbers)])
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "tasks", "regret", "half_width"])
        for method, tasks, mean, half in curves(found):
            rows.writerows(
                [method, int(t), f"{m:.6f}", f"{h:.6f}"] for t, m, h in zip(tasks, mean, half, strict=True)
            )


def curves(found: Mapping[tuple[str, str], Outcome]) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(method, tasks so far, mean regret, half width of its interval) of the main world."""
    lines = []
    for (world, method), each in found.items():
        if world != "main":
            continue
        pieces = np.array_split(each.regret, min(POINTS, each.regret.shape[1]), axis=1)
        ends = BATCH * np.cumsum([piece.shape[1] for piece in pieces])
        both = np.array([interval(piece.mean(1)) for piece in pieces])
        lines.append((method, ends, both[:, 0], both[:, 1]))
    return lines


def draw(curves: Path, path: Path) -> None:
    """Regret of a task against tasks seen, the main world, from `curves.csv`."""
    plt = pyplot()
    points: dict[str, list[tuple[float, float, float]]] = {}
    with open(curves, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = float(row["tasks"]), float(row["regret"]), float(row["half_width"])
            points.setdefault(row["method"], []).append(numbers)
    figure, axis = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    shown = ("MemRL", *BASELINES, "utility only, no gate", "MemRL, bonus 0.5", "oracle")
    lines: dict[Any, str] = {}
    for i, method in enumerate(method for method in points if method in shown):
        tasks, mean, half = np.asarray(points[method]).T
        colour, style = colour_of(i), style_of(i)
        (line,) = axis.plot(tasks, mean, color=colour, linestyle=style, linewidth=2.4 if i == 0 else 1.4)
        axis.fill_between(tasks, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
        lines[line] = method
    axis.set(xlabel="tasks", ylabel="regret of a task (probability of success)", ylim=(0, None))
    axis.set_title("Choosing memories: mean over seeds with its 95 % interval", fontsize=11)
    plain(axis, steps=True)
    legend_beside(axis, lines)
    save_figure(figure, path)
    plt.close(figure)


def readme(found: Mapping[tuple[str, str], Outcome], seeds: int, rounds: int) -> str:
    """What was run and what came out."""
    device = device_of(describe_launch())
    text = [
        "# Choosing memories with known success probabilities",
        "",
        f"Generated by `python -m experiments.memrl_simulator --seeds {seeds} --rounds {rounds}`, {device},"
        f" jax {jax.__version__}; seeds 0 to {seeds - 1}, each with a world of its own, {rounds * BATCH:,}"
        f" tasks in rounds of {BATCH}. How fast it goes: `memrl_simulator` in `benchmarks/README.md`.",
        "",
        "`memjax/envs/memory_bandit.py` says what a world is. Regret is the success probability of the best"
        " memory there is for a task's cluster minus that of the one chosen. All methods are the `paper`"
        f" preset with {', '.join(f'{k} {v}' for k, v in COMMON.items())}, rewards +1 and -1, and the change"
        " that the name says; 'no gate' ranks the whole memory by utility, 'late' is the last fifth. With"
        " k2 = 3 a task follows one of three memories, drawn evenly, so its regret has a floor above 0.",
        "",
        "Cells: mean over the seeds and half width of its 95 % interval. 'More than MemRL' is the paired"
        " difference of regret to MemRL in the same world and seed.",
    ]
    for world, config in WORLDS.items():
        text += ["", f"## {world[0].upper()}{world[1:]}", "", describe(config), "", *table(found, world)]
    verdict = [
        "",
        "## Reading",
        "",
        *(f"- {line}" for line in verdicts(found)),
        "",
        "![regret](figure.png)",
        "",
    ]
    return "\n".join(text + verdict)


def describe(config: BanditConfig) -> str:
    """The sizes of a world in a line."""
    low, high = config.quality
    return (
        f"{config.families} families of {config.clusters} clusters, {config.memories} memories for each;"
        f" cosine of clusters in a family about {config.likeness}, noise {config.noise}; quality {low} to"
        f" {high}; without a memory {config.base}, misled {config.base * (1 - config.harm):.2g}."
    )


def table(found: Mapping[tuple[str, str], Outcome], world: str) -> list[str]:
    """Rows of Markdown."""
    lines = ["| method | regret | late regret | success | more than MemRL |", "|---|---|---|---|---|"]
    for (name, method), each in found.items():
        if name != world:
            continue
        late = each.regret[:, -max(1, each.regret.shape[1] // 5) :]
        cells = [interval(x.mean(1)) for x in (each.regret, late, each.success)]
        more = interval((each.regret - found[world, "MemRL"].regret).mean(1))
        cells += [] if method == "MemRL" else [more]
        texts = [f"{mean:.3f} ± {half:.3f}" for mean, half in cells]
        lines.append(f"| {method} | " + " | ".join(texts + [""] * (4 - len(texts))) + " |")
    return lines


def verdicts(found: Mapping[tuple[str, str], Outcome]) -> list[str]:
    """In words, per world and baseline: below, above or not told apart."""
    lines = []
    for world in WORLDS:
        said = []
        for method in (m for w, m in found if w == world and m in (*BASELINES, "utility only, no gate")):
            mean, half = interval((found[world, method].regret - found[world, "MemRL"].regret).mean(1))
            word = "below" if mean > half else "above" if mean < -half else "not told apart from"
            said.append(f"{word} {method} ({mean:+.3f} ± {half:.3f})")
        lines.append(f"{world}: MemRL's regret is " + ", ".join(said) + ".")
    return lines


if __name__ == "__main__":
    main()
