"""The tables and the picture of a campaign, from its rows alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from memjax.commands.aggregates import (
    Scores,
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)
from memjax.commands.campaign_file import Campaign
from memjax.commands.curves import COLOURS, save_figure

MEASURES = {"score": "the end of the run", "area": "the whole run"}

Table = Mapping[str, Mapping[str, np.ndarray]]  # arm -> task -> [n] normalised


def write_tables(campaign: Campaign, rows: Sequence[Mapping[str, str]], workdir: Path, name: str) -> None:
    """Writes `tables.md` and `figure.png` to `workdir`, and prints the former."""
    what = "scores are 0 and 1 at the ends that it names for each task"
    parts = [f"Tables of `{name}`: {what}; the main policy of each arm."]
    for measure, what in MEASURES.items():
        table = normalised(campaign, rows, measure)
        parts += [f"## Mean of {what}", by_group(campaign, table), by_task(campaign, table)]
    text = "\n\n".join(parts) + "\n"
    (workdir / "tables.md").write_text(text, encoding="utf-8")
    draw(campaign, normalised(campaign, rows, "score"), workdir / "figure.png")
    print(text)


def normalised(campaign: Campaign, rows: Sequence[Mapping[str, str]], measure: str) -> Table:
    """Scores of every arm's main policy, 0 and 1 at the ends of the task's scale."""
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in campaign.arms}
    for row in rows:
        if row["main"] == "1" and row["arm"] in found and row["task"] in campaign.scale:
            low, high = campaign.scale[row["task"]]
            score = (float(row[measure]) - low) / (high - low)
            found[row["arm"]].setdefault(row["task"], []).append(score)
    return {arm: {task: np.asarray(x) for task, x in tasks.items()} for arm, tasks in found.items()}


def shared_tasks(tasks: Sequence[str], *arms: Mapping[str, np.ndarray]) -> list[str]:
    """The tasks that every one of the arms has scores of."""
    return [task for task in tasks if all(task in arm for arm in arms)]


def by_group(campaign: Campaign, table: Table) -> str:
    """Interquartile means, and the first arm's probability of improvement over each; 95 % intervals."""
    first = next(iter(campaign.arms))
    heads = [f"{group}: IQM | {group}: P({first} better)" for group in campaign.groups]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---" * (2 * len(heads) + 1) + "|"]
    for arm in campaign.arms:
        cells = []
        for tasks in campaign.groups.values():
            own = _scores(table[arm], shared_tasks(tasks, *table.values()))
            cells.append(with_interval(interquartile_mean, own) if own else "-")
            both = shared_tasks(tasks, table[first], table[arm])
            pair = _scores(table[first], both), _scores(table[arm], both)
            versus = arm != first and both
            cells.append(with_interval(probability_of_improvement, *pair) if versus else "-")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_task(campaign: Campaign, table: Table) -> str:
    """The interquartile mean of every arm on every task."""
    lines = ["| task | " + " | ".join(campaign.arms) + " |", "|---" * (len(campaign.arms) + 1) + "|"]
    for task in campaign.tasks:
        cells = [
            f"{interquartile_mean([table[arm][task]]):.2f}" if task in table[arm] else "-"
            for arm in campaign.arms
        ]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(campaign: Campaign, table: Table, out: Path) -> None:
    """A column for each group: interquartile means with intervals above, performance profiles below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(campaign.groups)
    size = (5.2 * len(groups), 2.2 + 0.35 * len(table) + 3.2)
    figure, axes = pyplot.subplots(2, len(groups), figsize=size, squeeze=False, layout="constrained")
    thresholds = np.linspace(0.0, 1.0, 101)
    for column, (group, tasks) in enumerate(campaign.groups.items()):
        both = shared_tasks(tasks, *table.values())
        bars, profile = axes[0, column], axes[1, column]
        for i, arm in enumerate(table):
            colour, style = COLOURS[i % len(COLOURS)], ("-", "--")[i // len(COLOURS) % 2]
            scores = _scores(table[arm], both)
            if not scores:
                continue
            low, high = interval(interquartile_mean, scores)
            bars.plot([low, high], [i, i], color=colour, linewidth=6, alpha=0.4)
            bars.plot([interquartile_mean(scores)], [i], "o", color=colour)
            shares = performance_profile(scores, thresholds)
            profile.plot(thresholds, shares, color=colour, linestyle=style, label=arm)
        bars.set(yticks=range(len(table)), yticklabels=list(table) if column == 0 else [""] * len(table))
        bars.invert_yaxis()
        bars.set(title=f"{group}: {len(both)} tasks", xlabel="interquartile mean, normalised, 95 %")
        profile.set(xlabel="normalised score", ylabel="share of runs above" if column == 0 else "")
        for axis in (bars, profile):
            axis.grid(alpha=0.3)
    axes[1, 0].legend(fontsize="small")
    save_figure(figure, out)
    pyplot.close(figure)


def _scores(arm: Mapping[str, np.ndarray], tasks: Sequence[str]) -> Scores:
    return [arm[task] for task in tasks]


def with_interval(statistic: Callable[..., float], *groups: Scores, form: str = ".2f") -> str:
    """A statistic of groups of scores with the ends of its 95 % interval, as text."""
    low, high = interval(statistic, *groups)
    return f"{statistic(*groups):{form}} [{low:{form}}, {high:{form}}]"
