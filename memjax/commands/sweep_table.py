"""The table and the picture of a sweep, from its rows alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.aggregates import interquartile_mean, interval
from memjax.commands.campaign_file import Campaign
from memjax.commands.campaign_table import MEASURES, normalised, with_interval
from memjax.commands.figures import COLOURS, plain, pyplot, save_figure


def write_sweep(campaign: Campaign, rows: Sequence[Mapping[str, str]], workdir: Path, source: str) -> None:
    """Writes `tables.md` and `figure.png` to `workdir`, and prints the former."""
    last = campaign.first_seed + campaign.seeds - 1
    text = (
        f"Sweep of `{source}`, seeds {campaign.first_seed} to {last}: `{campaign.score}` of the main policy, "
        "interquartile mean over the seeds with a 95 % bootstrap interval. The best of several settings "
        "looks better on the seeds that it was chosen by than on others.\n\n"
    )
    text += by_setting(campaign, rows) + "\n"
    (workdir / "tables.md").write_text(text, encoding="utf-8")
    draw(campaign, rows, workdir / "figure.png")
    print(text)


def by_setting(campaign: Campaign, rows: Sequence[Mapping[str, str]]) -> str:
    """A line for each setting: its values, and its scores. "-" where a run has none."""
    fields = list(next(iter(campaign.arms.values())))
    heads = [*fields, *(f"mean of {what}" for what in MEASURES.values()), "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    measured = [_scores(campaign, rows, measure) for measure in MEASURES]
    for arm, setting in campaign.arms.items():
        found = [scores[arm] for scores in measured]
        cells = [with_interval(interquartile_mean, [x], form=".4g") if len(x) else "-" for x in found]
        values = [value.replace("|", "\\|") for value in setting.values()]
        lines.append(f"| {' | '.join([*values, *cells, str(len(found[0]))])} |")
    return "\n".join(lines)


def draw(campaign: Campaign, rows: Sequence[Mapping[str, str]], out: Path) -> None:
    """Interquartile means with intervals, and every seed as a dot: over the field's values, or by setting."""
    plt = pyplot()
    scores = _scores(campaign, rows, "score")
    place = numbers(list(campaign.arms.values()))
    count = len(scores)
    size = (5.6, 3.8) if place is not None else (6.4, 1.4 + 0.35 * count)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    label = f"{campaign.score}, mean of the last {campaign.last:.0%} of the run"
    if place is not None:
        _draw_over(axis, place, list(scores.values()))
        axis.set(xlabel=next(iter(next(iter(campaign.arms.values())))), ylabel=label)
    else:
        for i, values in enumerate(scores.values()):
            if len(values):
                axis.plot(interval(interquartile_mean, [values]), [i, i], color=COLOURS[0], lw=6, alpha=0.4)
                axis.plot(values, np.full(len(values), i), "o", color="0.5", markersize=2.5)
                axis.plot([interquartile_mean([values])], [i], "o", color=COLOURS[0])
        axis.set_yticks(range(count), list(scores), fontsize=8, parse_math=False)
        axis.invert_yaxis()
        axis.set_xlabel(label)
    axis.set_title("interquartile mean over seeds, 95 %; a dot is a seed", fontsize=10)
    plain(axis)
    save_figure(figure, out)
    plt.close(figure)


def numbers(settings: Sequence[Mapping[str, str]]) -> np.ndarray | None:
    """The values [n] of the one field that a sweep is over; None where there are several, or other values."""
    if len(settings[0]) != 1:
        return None
    try:
        found = np.asarray([float(value) for setting in settings for value in setting.values()])
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _draw_over(axis: Any, place: np.ndarray, scores: Sequence[np.ndarray]) -> None:
    known = [i for i in np.argsort(place) if len(scores[i])]
    x = place[known]
    middle = [interquartile_mean([scores[i]]) for i in known]
    ends = np.asarray([interval(interquartile_mean, [scores[i]]) for i in known]).reshape(-1, 2)
    axis.fill_between(x, ends[:, 0], ends[:, 1], color=COLOURS[0], alpha=0.25, linewidth=0)
    for i in known:
        axis.plot(np.full(len(scores[i]), place[i]), scores[i], "o", color="0.5", markersize=2.5)
    axis.plot(x, middle, "o-", color=COLOURS[0])
    if place.min() > 0 and place.max() >= 10 * place.min():
        axis.set_xscale("log")


def _scores(campaign: Campaign, rows: Sequence[Mapping[str, str]], measure: str) -> dict[str, np.ndarray]:
    """Scores [n] of every setting on the one task of a sweep; NaN and what did not run are left out."""
    [task] = campaign.tasks
    found = {arm: of.get(task, np.zeros(0)) for arm, of in normalised(campaign, rows, measure).items()}
    return {arm: values[~np.isnan(values)] for arm, values in found.items()}
