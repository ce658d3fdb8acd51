"""The tables and the picture of a campaign, from its rows alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.aggregates import (
    Scores,
    interquartile_band,
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)
from memjax.commands.campaign_file import Campaign
from memjax.commands.figures import (
    COLOURS,
    colour_of,
    legend_beside,
    plain,
    pyplot,
    save_figure,
    style_of,
)

MEASURES = {"score": "the end of the run", "area": "the whole run"}

Table = Mapping[str, Mapping[str, np.ndarray]]  # arm -> task -> [n] normalised


def write_tables(campaign: Campaign, rows: Sequence[Mapping[str, str]], workdir: Path, name: str) -> None:
    """Writes `tables.md` and `figure.png` to `workdir`, and prints the former."""
    what = "scores are 0 and 1 at the ends that it names for each task"
    parts = [f"Tables of `{name}`: {what}; the main policy of each arm."]
    for measure, what in MEASURES.items():
        table = normalised(campaign, rows, measure)
        parts += [f"## Mean of {what}", by_group(campaign, table), by_task(campaign, table)]
        parts += filter(None, [chances(campaign, table)])
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


def tasks_of(tasks: Sequence[str], table: Table) -> list[str]:
    """The tasks of a group that its arms are compared on; an arm that has run none of them does not count."""
    return shared_tasks(tasks, *(arm for arm in table.values() if any(task in arm for task in tasks)))


def by_group(campaign: Campaign, table: Table) -> str:
    """Interquartile means, and the first arm's probability of improvement over each; 95 % intervals.

    The means are over the tasks that all arms have run, but for arms that have run none of the group; a
    probability is over those that both arms have run.
    """
    first = next(iter(campaign.arms))
    heads = [f"{group}: IQM | {group}: P({first} better)" for group in campaign.groups]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---" * (2 * len(heads) + 1) + "|"]
    for arm in campaign.arms:
        cells = []
        for tasks in campaign.groups.values():
            own = _scores(table[arm], tasks_of(tasks, table))
            cells.append(with_interval(interquartile_mean, own) if own else "-")
            both = shared_tasks(tasks, table[first], table[arm])
            pair = _scores(table[first], both), _scores(table[arm], both)
            versus = arm != first and both
            cells.append(with_interval(probability_of_improvement, *pair) if versus else "-")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_task(campaign: Campaign, table: Table) -> str:
    """The interquartile mean of every arm on every task, and its 95 % interval."""
    lines = ["| task | " + " | ".join(campaign.arms) + " |", "|---" * (len(campaign.arms) + 1) + "|"]
    for task in campaign.tasks:
        cells = [_of_runs(table[arm][task]) if task in table[arm] else "-" for arm in campaign.arms]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chances(campaign: Campaign, table: Table) -> str:
    """The first arm's probability of improvement over every other, task by task, and its 95 % interval.

    Empty where every group is a single task, as the table of the groups has it, or no arms share a task.
    """
    if len(campaign.tasks) == len(campaign.groups):
        return ""
    first, *others = campaign.arms
    pairs = {
        task: [
            with_interval(probability_of_improvement, [table[first][task]], [table[arm][task]])
            if shared_tasks([task], table[first], table[arm])
            else "-"
            for arm in others
        ]
        for task in campaign.tasks
    }
    known = {task: cells for task, cells in pairs.items() if set(cells) - {"-"}}
    if not known:
        return ""
    lines = [f"| P({first} better) | " + " | ".join(others) + " |", "|---" * len(campaign.arms) + "|"]
    return "\n".join(lines + [f"| {task} | " + " | ".join(cells) + " |" for task, cells in known.items()])


def _of_runs(runs: np.ndarray) -> str:
    """The interquartile mean of runs [n] and its interval: `with_interval`, all draws at once."""
    middle, low, high = (x[0] for x in interquartile_band(runs[None, :], draws=2_000))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def draw(campaign: Campaign, table: Table, out: Path) -> None:
    """Interquartile means with intervals of every group, performance profiles below, and every task.

    A group is shown where some task of it has scores of all arms that have run any of it, a task where it has
    scores of any arm. A task that is all of its group is not shown twice.

    Args:
      campaign: whose groups, tasks and arms.
      table: normalised scores.
      out: the picture.
    """
    plt = pyplot()
    groups = {group: tasks_of(tasks, table) for group, tasks in campaign.groups.items()}
    groups = {group: tasks for group, tasks in groups.items() if tasks}
    alone = [tasks[0] for tasks in groups.values() if len(tasks) == 1]
    tasks = [task for task in campaign.tasks if any(task in x for x in table.values()) and task not in alone]
    if not groups and not tasks:
        return
    row, rows, columns = 1.0 + 0.22 * len(table), -(-len(tasks) // 4), min(4, max(2, len(tasks)))
    heights = [height for height in (row * 1.3 * len(groups), row * rows) if height]
    figure = plt.figure(figsize=(9.6, sum(heights) + 0.4), layout="constrained")
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if groups:
        axes = parts.pop(0).subplots(len(groups), 2, squeeze=False)
        for (bars, profile), (group, shared) in zip(axes, groups.items(), strict=True):
            names = f"{len(shared)} tasks" if len(shared) > 1 else shared[0]
            scores = {arm: _scores(table[arm], shared) for arm in table}
            _draw_bars(bars, scores, f"{group}: {names}", named=True, dots=len(shared) == 1)
            _draw_profiles(profile, scores)
    if tasks:
        axes = list(parts.pop(0).subplots(rows, columns, squeeze=False).flat)
        for i, (axis, task) in enumerate(zip(axes, tasks, strict=False)):
            scores = {arm: _scores(table[arm], [task]) for arm in table}
            _draw_bars(axis, scores, task, named=i % columns == 0, dots=True)
        for axis in axes[len(tasks) :]:
            axis.axis("off")
    about = "interquartile mean, 95 % bootstrap interval; a grey dot is a run"
    figure.suptitle(f"{about}; 0 and 1 as the campaign's file says", fontsize=10)
    save_figure(figure, out)
    plt.close(figure)


def _draw_bars(
    axis: Any, scores: Mapping[str, Scores], title: str, *, named: bool, dots: bool = False
) -> None:
    """A line of the axes for each arm: its interval, its interquartile mean, with `dots` every run."""
    for i, own in enumerate(scores.values()):
        if not own:
            continue
        runs = np.concatenate(own)
        low, high = interval(interquartile_mean, own)
        if dots:
            axis.plot(runs, np.full(len(runs), i), "o", color="0.6", markersize=2.5, zorder=1)
        axis.plot([low, high], [i, i], color=colour_of(i), linewidth=6, alpha=0.35, solid_capstyle="butt")
        axis.plot([interquartile_mean(own)], [i], "o" if len(runs) > 1 else "x", color=colour_of(i), zorder=3)
    labels = list(scores) if named else [""] * len(scores)
    axis.set_yticks(range(len(scores)), labels, fontsize=8, parse_math=False)
    for i, label in enumerate(axis.get_yticklabels()):
        label.set_color(colour_of(i))
    axis.set_ylim(len(scores) - 0.4, -0.6)
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.set_xlabel("normalised score", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlim(left=min(0.0, axis.get_xlim()[0]), right=max(1.02, axis.get_xlim()[1]))
    plain(axis)


def _draw_profiles(axis: Any, scores: Mapping[str, Scores]) -> None:
    """The share of runs above each score, in the colours of the arms' names beside."""
    thresholds = np.linspace(0.0, 1.0, 101)
    lines: dict[Any, str] = {}
    for i, (arm, own) in enumerate(scores.items()):
        if not own:
            continue
        width = 3.2 - 2.0 * i / max(1, len(scores) - 1)  # so that of equal curves both are seen
        shares = performance_profile(own, thresholds)
        style = {"color": colour_of(i), "linestyle": style_of(i), "linewidth": width}
        lines[axis.plot(thresholds, shares, **style)[0]] = arm
    if len(lines) > len(COLOURS):  # the names beside have some colours twice
        legend_beside(axis, lines)
    axis.set_title("performance profile", fontsize=10)
    axis.set_xlabel("normalised score", fontsize=8)
    axis.set_ylabel("share of runs above", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.set(xlim=(0, 1), ylim=(-0.03, 1.03))
    plain(axis)


def _scores(arm: Mapping[str, np.ndarray], tasks: Sequence[str]) -> Scores:
    """Those of every task; none where the arm lacks some of them."""
    return [arm[task] for task in tasks] if all(task in arm for task in tasks) else []


def with_interval(statistic: Callable[..., float], *groups: Scores, form: str = ".2f") -> str:
    """A statistic of groups of scores with the ends of its 95 % interval, as text."""
    low, high = interval(statistic, *groups)
    return f"{statistic(*groups):{form}} [{low:{form}}, {high:{form}}]"
