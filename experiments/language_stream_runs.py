"""Plays the stream of returning kinds with a local model, one arm after another, and writes its tables.

  python experiments/launch/local_model.py MODEL.gguf --context 4096
  python -m experiments.language_stream_runs play --runs runs/stream --seeds 0
  python -m experiments.language_stream_runs tables --runs runs/stream \\
      --seeds 0 --out experiments/results/language_stream

`experiments/language_stream.py` says what the requests are. All arms write the same content (the record
alone) and have the same room in the prompt; they differ in what they show. `_imported` arms begin with three
memories of each kind, one of three outdated. The same command goes on where it was stopped; a request that an
earlier arm has asked already is answered from the store.

Measure, fixed before the first run: success on returning requests, those whose kind was there before (all
visits but the first). Intervals: bootstrap over kinds, since visits of one kind are not independent.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.language_results import provenance
from experiments.language_stream import KINDS, PILOT, SYSTEM, VISITS, Kind, generate, options_in, write
from experiments.result_folder import read_rows
from memjax import cli
from memjax.commands.report_language import Curve, load_curve
from memjax.llm.run.log import events_of, reading
from memjax.llm.run.records import Attempt
from memjax.llm.run.state import LOG_FILE

ARMS = {
    "none": "no memory",
    "rag": "RAG",
    "memrl": "MemRL",
    "sharing": "context sharing",
    "long_context": "long context",
    "rag_imported": "RAG, imported",
    "memrl_imported": "MemRL, imported",
    "fixed_imported": "MemRL without learning, imported",  # first utilities stay: what learning adds
    "sharing_imported": "context sharing, imported",
}
PAIRS = (
    *(("memrl", rival) for rival in ("none", "rag", "sharing", "long_context")),
    *(("memrl_imported", rival) for rival in ("none", "rag_imported", "fixed_imported", "sharing_imported")),
    ("rag", "none"),
    ("rag_imported", "none"),
    ("fixed_imported", "rag_imported"),
)
SETTINGS = {
    "benchmark.limit": "None",
    "benchmark.options.reward": "house_rules",
    "benchmark.options.system": SYSTEM,
    "language.epochs": "1",
    "language.batch": "1",  # a stream: the next request sees what the last one taught
    "language.temperature": "0.0",
    "language.max_tokens": "48",
    "language.content_chars": "400",
    "language.inject_chars": "900",
    "language.memory.keep": "1",  # short prompts: the model reads 20 tokens a second here
}
DRAWS = 10_000
# What the memories of the request's own kind say that were shown: the right convention, right and others,
# others alone, or nothing; or there is none of the kind.
SHOWN = ("right", "mixed", "wrong", "silent", "none")


class Visit(NamedTuple):
    """One request of one run."""

    kind: str
    visit: int  # of the kind, from 0
    late: bool  # the kind is one of those held out for the second half
    solved: bool
    shown: str  # one of SHOWN
    followed: bool  # the reply has a convention that the memory of the kind says


class Arm(NamedTuple):
    """One run."""

    name: str
    seed: int
    curve: Curve
    visits: tuple[Visit, ...]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("play", "tables"))
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--pilot", action="store_true", help="play the kinds that no table has")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    if arguments.what == "play":
        changes = dict(item.split("=", 1) for item in arguments.set)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                code = play(arguments.runs, arm, seed, arguments.url, pilot=arguments.pilot, changes=changes)
                if code:
                    return code
        return 0
    if arguments.out is None:
        parser.error("tables: --out is required")
    found = (path.parent for seed in arguments.seeds for path in arguments.runs.glob(f"*-{seed}/{LOG_FILE}"))
    paths = sorted(found)
    tables([read(path) for path in paths], arguments.out, paths)
    return 0


def play(
    runs: Path,
    arm: str,
    seed: int,
    url: str,
    *,
    pilot: bool = False,
    changes: Mapping[str, str] | None = None,
) -> int:
    """One run, or what is left of it. Returns the exit code of `memjax remember`."""
    data = runs / f"data_{seed}"
    write(data, seed, PILOT if pilot else KINDS)
    mode, imported = arm.removesuffix("_imported"), arm.endswith("_imported")
    settings = SETTINGS | {
        "benchmark.folder": f"{data}",
        "language.seed": f"{seed}",
        "chat.endpoint.base_url": url,
        "store.path": f"{runs / 'store.sqlite'}",
    }
    if mode == "fixed":
        mode, settings = "memrl", settings | {"language.memory.step_size": "0"}
    settings |= {"language.imported.file": f"{data / 'imported.jsonl'}"} if imported else {}
    words = [f"--config.{name}={value}" for name, value in (settings | dict(changes or {})).items()]
    config = f"--config=language:own+{mode}+records+local"
    workdir = f"--workdir={runs / f'{arm}-{seed}'}"
    return cli.main(["remember", config, workdir, "--import=experiments.language_stream", *words])


def read(path: Path) -> Arm:
    """The run in a workdir, named `play`'s way."""
    name, _, seed = path.name.rpartition("-")
    tasks = {row["id"]: row for kinds in (KINDS, PILOT) for row in generate(int(seed), kinds)[0]}
    with reading(path / LOG_FILE) as connection:
        events = events_of(connection, "learn")
        names = dict(connection.execute("SELECT number, task_id FROM tasks").fetchall())
        memories = {
            row: (kind_of(intent), content)
            for row, intent, content in connection.execute("SELECT row, intent, content FROM experiences")
        }
        attempts = [Attempt(*json.loads(b)) for (b,) in connection.execute("SELECT body FROM attempts")]
    by_task = {attempt.task_id: attempt for attempt in attempts}
    visits = [
        _visit(tasks[names[task]], by_task[names[task]], [memories[row] for row in recall.rows])
        for event in events
        for task, recall in zip(event.tasks, event.recalls, strict=True)
    ]
    return Arm(name, int(seed), load_curve(path), tuple(visits))


def kind_of(intent: str) -> str:
    """The kind that a request is of; "" for none."""

    def fits(kind: Kind) -> bool:
        before, after = kind.request.split("{value}")
        return intent.startswith(before) and intent.endswith(after)

    return next((kind.name for kind in (*KINDS, *PILOT) if fits(kind)), "")


def _visit(row: Mapping[str, Any], attempt: Attempt, memories: Sequence[tuple[str, str]]) -> Visit:
    own = [text for kind, text in memories if kind == row["kind"]]
    said = {option for text in own for option in options_in(row, text)}
    if row["right"] in said:
        shown = "mixed" if len(said) > 1 else "right"
    else:
        shown = "wrong" if said else "silent" if own else "none"
    reply = attempt.trajectory.partition("\nAgent: ")[2].rpartition("\nWorld: ")[0]
    followed = bool(said.intersection(options_in(row, reply)))
    return Visit(row["kind"], row["visit"], row["late"], attempt.success, shown, followed)


def tables(arms: Sequence[Arm], out: Path, paths: Sequence[Path]) -> None:
    """The CSV of all requests, the tables and the picture, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "requests.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["arm", "seed", *Visit._fields])
        rows.writerows([arm.name, arm.seed, *visit] for arm in arms for visit in arm.visits)
    by_name = {name: [arm for arm in arms if arm.name == name] for name in ARMS}
    by_name = {name: some for name, some in by_name.items() if some}
    first = arms[0].curve
    text = ["Generated by `python -m experiments.language_stream_runs tables`.", ""]
    text += [f"## {first.played} requests, {first.model}", "", provenance(paths[0]), ""]
    text += [*success_table(by_name), "", *differences(by_name), ""]
    text += [*shown_table(by_name), "", *utility_table(by_name), ""]
    (out / "tables.md").write_text("\n".join(text), encoding="utf-8")
    redraw(out)
    print("\n".join(text))


def redraw(out: Path) -> None:
    """The picture of a folder from its `requests.csv`."""
    by_name: dict[str, list[Visit]] = {}
    for row in read_rows(out / "requests.csv"):
        said = {name: row[name] == "True" for name in ("late", "solved", "followed")}
        visit = Visit(row["kind"], int(row["visit"]), shown=row["shown"], **said)
        by_name.setdefault(row["arm"], []).append(visit)
    draw({name: by_name[name] for name in ARMS if name in by_name}, out / "success.png")


def success_table(by_name: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Success in per cent."""
    lines = ["| arm | seeds | all | first visits | returning | of late kinds | whole | tokens each |"]
    lines += ["|---" * 8 + "|"]
    for name, arms in by_name.items():
        visits = [visit for arm in arms for visit in arm.visits]
        parts = (
            visits,
            [x for x in visits if not x.visit],
            [x for x in visits if x.visit],
            [x for x in visits if x.visit and x.late],
        )
        whole = [arm.curve.whole for arm in arms if arm.curve.whole is not None]
        cells = [str(len(arms)), *(percent(part) for part in parts)]
        cells += [f"{100 * np.mean(whole):.0f} %" if whole else "-"]
        cells += [f"{sum(arm.curve.tokens for arm in arms) / len(visits):.0f}"]
        lines.append(f"| {ARMS[name]} | " + " | ".join(cells) + " |")
    return lines


def percent(visits: Sequence[Visit]) -> str:
    """Share of the visits that were solved."""
    return f"{100 * np.mean([x.solved for x in visits]):.1f}" if visits else "-"


def differences(by_name: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Paired differences on the returning requests, with intervals over kinds."""
    lines = []
    for name, rival in PAIRS:
        if name in by_name and rival in by_name:
            mean, low, high, kinds = difference(by_name[name], by_name[rival])
            text = f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"
            lines.append(f"- {ARMS[name]} minus {ARMS[rival]}: {text}, {kinds} kinds")
    return lines


def difference(arms: Sequence[Arm], rivals: Sequence[Arm]) -> tuple[float, float, float, int]:
    """(mean, low, high) in points of the returning requests that both have, and of how many kinds."""
    own, other = _returning(arms), _returning(rivals)
    pairs: dict[tuple[int, str], list[float]] = {}
    for seed, kind, visit in sorted(own.keys() & other.keys()):
        key = seed, kind, visit
        pairs.setdefault((seed, kind), []).append(float(own[key]) - float(other[key]))
    sums = np.array([sum(values) for values in pairs.values()])
    counts = np.array([len(values) for values in pairs.values()])
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means = 100 * sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(100 * sums.sum() / counts.sum()), float(low), float(high), len(sums)


def _returning(arms: Sequence[Arm]) -> dict[tuple[int, str, int], bool]:
    return {(arm.seed, x.kind, x.visit): x.solved for arm in arms for x in arm.visits if x.visit}


def shown_table(by_name: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Of the returning requests: what the shown memories of their kind said, and success with it."""
    lines = ["| arm | " + " | ".join(SHOWN) + " | followed |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, arms in by_name.items():
        visits = [visit for arm in arms for visit in arm.visits if visit.visit]
        cells = []
        for shown in SHOWN:
            part = [x for x in visits if x.shown == shown]
            cells.append(f"{len(part)}: {percent(part)} %" if part else "0")
        told = [x.followed for x in visits if x.shown in ("right", "mixed", "wrong")]
        cells.append(f"{sum(told)} of {len(told)}" if told else "-")
        lines.append(f"| {ARMS[name]} | " + " | ".join(cells) + " |")
    return lines


def utility_table(by_name: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Utility against success, of the arms that learn utilities."""
    lines = ["| arm | r of utility and success | success by utility, low to high |", "|---|---|---|"]
    for name, arms in by_name.items():
        for arm in arms:
            found = arm.curve.analysis
            if found is not None and found.bins:
                bins = ", ".join(f"{q:+.2f}: {100 * won:.0f} % of {n}" for q, won, n in found.bins)
                lines.append(f"| {ARMS[name]}, seed {arm.seed} | {found.correlation:.2f} | {bins} |")
    return lines


def draw(by_name: Mapping[str, Sequence[Visit]], path: Path) -> None:
    """Success by visit: from nothing, and with imported memories."""
    from memjax.commands.figures import STYLES, colour_of, legend_below, plain, pyplot, save_figure

    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
    modes = list(dict.fromkeys(name.removesuffix("_imported") for name in ARMS))
    kinds = {visit.kind for visits in by_name.values() for visit in visits}
    lines: dict[str, Any] = {}
    for axis, imported in zip(axes, (False, True), strict=True):
        seeds = 0
        for name, visits in by_name.items():
            if name != "none" and name.endswith("_imported") != imported:
                continue
            shares = [np.mean([x.solved for x in visits if x.visit == n] or [np.nan]) for n in range(VISITS)]
            seeds = sum(not x.visit for x in visits) // len(kinds) if name != "none" else seeds
            place = modes.index(name.removesuffix("_imported"))
            style = {"color": colour_of(place), "linestyle": STYLES[place % len(STYLES)]}
            style |= {"marker": "o", "markersize": 8 - place}  # so that of equal curves all are seen
            (line,) = axis.plot(range(1, VISITS + 1), shares, **style)
            lines.setdefault(ARMS[name].removesuffix(", imported"), line)
        title = "memories imported, a third outdated" if imported else "from an empty memory"
        axis.set_title(f"{title} ({seeds} seed{'s' * (seeds != 1)})", fontsize=11)
        axis.set(xlabel="visit of the kind", ylim=(-0.03, 1.03))
        plain(axis)
    axes[0].set_ylabel("share of the requests solved")
    legend_below(figure, {line: label for label, line in lines.items()}, columns=len(lines))
    save_figure(figure, path)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
