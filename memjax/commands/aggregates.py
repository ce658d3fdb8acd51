"""Scores of several runs on several tasks as one number with an interval (Agarwal et al. 2021, "rliable").

Scores are a list of tasks, each an array [n] with one normalised score per run; n may differ between tasks.
"""

from collections.abc import Callable, Sequence

import numpy as np

Scores = Sequence[np.ndarray]  # one array [n] per task


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all runs of all tasks; a quarter, rounded down, is cut at each end."""
    ordered = np.sort(np.concatenate(scores))
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """Probability that a run of the one scores above one of the other, ties half; mean over tasks."""
    chances = [
        np.mean((x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :]))
        for x, y in zip(scores, others, strict=True)
    ]
    return float(np.mean(chances))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs [thresholds] that score above each threshold, mean over tasks."""
    return np.mean([np.mean(x[:, None] > thresholds[None, :], axis=0) for x in scores], axis=0)


def interval(
    statistic: Callable[..., float], *groups: Scores, draws: int = 2_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of one or several groups of scores.

    By the stratified bootstrap: runs are drawn again, with replacement, within each task and group apart.

    Args:
      statistic: of as many groups as are given.
      groups: scores of each.
      draws: of the bootstrap.
      level: of confidence.
      seed: of the draws.

    Returns:
      The lower and the upper end.
    """
    rng = np.random.default_rng(seed)
    found = [
        statistic(*([x[rng.integers(len(x), size=len(x))] for x in scores] for scores in groups))
        for _ in range(draws)
    ]
    low, high = np.quantile(found, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def interquartile_band(
    values: np.ndarray, *, draws: int = 1_000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The interquartile mean over runs at each of n places, with the percentile interval of the bootstrap.

    A draw takes whole runs, so that neighbouring places are drawn alike and a band is smooth.

    Args:
      values: [n, runs]; NaN where a run has no value at a place. Every place has at least one.
      draws: of the bootstrap.
      level: of confidence.
      seed: of the draws.

    Returns:
      The interquartile mean, and the lower and the upper end, [n] each.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(values.shape[1], size=(draws, values.shape[1]))
    middle, low, high = (np.full(len(values), np.nan) for _ in range(3))
    for i, row in enumerate(values):
        known = row[~np.isnan(row)]
        middle[i] = interquartile_mean([known])
        drawn = known[chosen[:, : len(known)] % len(known)] if len(known) < len(row) else row[chosen]
        cut = len(known) // 4
        means = np.sort(drawn, axis=1)[:, cut : len(known) - cut].mean(axis=1)
        low[i], high[i] = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return middle, low, high
