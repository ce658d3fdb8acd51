"""The runs of a campaign: every arm on every task, checked before the first one starts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.commands.campaign_file import Campaign, split_arm
from memjax.commands.train import resolve_training
from memjax.data.scores import has_reference
from memjax.envs import spec_of
from memjax.runs.same_run import as_begun, sealed
from memjax.schema import one_of
from memjax.training.config import ResolvedConfig
from memjax.types import ConfigError, EnvSpec

_ALWAYS = {"run": {"memory": ...}}  # a field that came later, and that the digests of results always had
FRAME_SKIP = 4  # of envpool's Atari games, where a config says nothing else


class Cell(NamedTuple):
    """One process: an arm on a task, with one seed or with all."""

    group: str
    task: str
    arm: str
    source: str  # as `memjax train --config` takes it
    overrides: tuple[tuple[str, str], ...]
    folder: Path
    first_seed: int
    seeds: int
    total_steps: int  # of every seed
    frames: int  # of a game that one step shows; 0 where observations are no images
    digest: str  # of the resolved config
    flags: tuple[str, ...] = ()  # further words of `memjax train`

    @property
    def name(self) -> str:
        """What messages call it."""
        apart = self.folder.name != self.arm  # a run for each seed
        return str(Path(*self.folder.parts[-3 if apart else -2 :]))


def cost(cells: Sequence[Cell]) -> str:
    """What cells take altogether, as a sentence."""
    steps = sum(cell.seeds * cell.total_steps for cell in cells)
    frames = sum(cell.seeds * cell.total_steps * cell.frames for cell in cells)
    games = sum(cell.seeds * cell.total_steps for cell in cells if cell.frames)
    return f"{steps:,} environment steps" + (f", {games:,} of them of games: {frames:,} frames" * bool(games))


def cells_of(campaign: Campaign, workdir: Path) -> list[Cell]:
    """All cells, tasks of every group in order, arms within. Raises ConfigError for a wrong config."""
    specs: dict[tuple[str, str], EnvSpec] = {}  # what an Atari game is like takes a fifth of a second to ask

    def known(id: str, options: Mapping[str, Any]) -> EnvSpec:
        key = (id, repr(sorted(options.items())))
        if key not in specs:
            specs[key] = spec_of(id, options)
        return specs[key]

    return [
        cell
        for group, tasks in campaign.groups.items()
        for task in tasks
        for arm in campaign.arms
        for cell in _cells(campaign, workdir, group, task, arm, known)
    ]


def _cells(
    campaign: Campaign, workdir: Path, group: str, task: str, arm: str, known: Callable[..., EnvSpec]
) -> list[Cell]:
    variant, own = split_arm(campaign.arms[arm])
    base = campaign.configs.get(group, campaign.config)
    source = ":".join(filter(None, (base, "+".join(filter(None, (task, variant))))))
    chosen = [*((name, str(value)) for name, value in campaign.overrides.items()), *own]
    config = resolve_training(source, chosen, known)
    _check_score(campaign.score, config)
    digest, frames = digest_of(config.raw, config.later), frames_of(config)
    first, count, folder = campaign.first_seed, campaign.seeds, workdir / task / arm
    whole = config.backend == "jax"  # seeds side by side
    apart = [(seed, 1, folder / f"seed_{seed}") for seed in range(first, first + count)]
    cells = []
    for seed, n, place in [(first, count, folder)] if whole else apart:
        fields = (*chosen, ("seed", str(seed)), ("num_seeds", str(n)))
        steps = config.run.total_steps
        cells.append(Cell(group, task, arm, source, fields, place, seed, n, steps, frames, digest))
    return cells


def _check_score(score: str, config: ResolvedConfig) -> None:
    """Raises ConfigError for what no evaluation of the config measures. Others show when it has run."""
    name = score if "/" not in score else score.rpartition("/")[2] if score.startswith("eval/") else None
    if name is None:
        return
    if not config.run.eval_every:
        expected = "a metric of training, such as 'train/return', as run.eval_every is 0"
        raise ConfigError("score", expected, f"'{score}'")
    offline = config.data is not None
    known = {
        "return": True,
        "length": True,
        "success": config.spec.has_success,
        "score": offline and has_reference(config.env.id, config.env.options),
        "trust": offline and config.backend == "host",  # of an agent that tells how far it follows its memory
    }
    if not known.get(name):
        names = [each for each, there in known.items() if there]
        expected = one_of(name, names, "what an evaluation measures there")
        raise ConfigError("score", f"{expected}, or a metric of training as 'train/{name}'", f"'{score}'")


def frames_of(config: ResolvedConfig) -> int:
    """Frames of a game that one environment step of a config shows; 0 where observations are no images."""
    if not (config.spec.is_image and config.backend == "host"):
        return 0
    return int(config.env.options.get("frame_skip", FRAME_SKIP))


def digest_of(raw: Mapping[str, Any], later: Mapping[str, Any]) -> str:
    """A name of a config's values, but for its seeds and for fields that do nothing.

    Args:
      raw: the config as plain values.
      later: fields that came later, by path, and the values with which they do nothing; results from before
        such a field stay valid.
    """
    values = {k: v for k, v in as_begun(raw, _ALWAYS, later).items() if k not in ("seed", "num_seeds")}
    return sealed(values)[:12]


def is_done(cell: Cell, rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether the rows of every seed of a cell are there, from the same config."""
    have = {
        int(row["seed"])
        for row in rows
        if (row["task"], row["arm"], row["config"]) == (cell.task, cell.arm, cell.digest)
    }
    return have >= set(range(cell.first_seed, cell.first_seed + cell.seeds))


def rows_of(cells: Sequence[Cell], rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows that these cells wrote. Others are of a file that was changed since, or of other seeds."""
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for cell in cells:
        own = range(cell.first_seed, cell.first_seed + cell.seeds)
        seeds.setdefault((cell.task, cell.arm, cell.digest), set()).update(own)
    return [
        row for row in rows if int(row["seed"]) in seeds.get((row["task"], row["arm"], row["config"]), ())
    ]
