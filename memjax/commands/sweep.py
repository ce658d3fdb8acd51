"""`memjax sweep`: one config under several settings of its fields, as a campaign whose arms are the settings.

Each setting is a run of `memjax train` in WORKDIR/SETTING, or WORKDIR/VARIANT/SETTING where a variant of the
config is swept, with all seeds side by side where the environment runs in JAX and one run a seed elsewhere.
"""

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from memjax.commands.campaign import run_missing
from memjax.commands.campaign_cells import cells_of
from memjax.commands.campaign_file import Campaign
from memjax.commands.sweep_table import write_sweep
from memjax.runs.imports import import_all
from memjax.types import ConfigError

Setting = dict[str, str]  # {field: text of its value}

LONGEST_NAME = 200  # of a setting's folder, in characters
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


class Request(NamedTuple):
    """What is asked of a sweep."""

    config: str  # as `memjax train --config` takes it
    over: Sequence[tuple[str, Sequence[str]]]  # (field, values as text)
    overrides: Sequence[tuple[str, str]] = ()  # (field, text) that all settings share
    draws: int | None = None  # settings drawn at random; None: the whole grid
    first_seed: int = 0
    seeds: int = 1
    score: str = "return"  # as in a campaign's file
    last: float = 0.25
    keep_checkpoints: bool = False
    imports: Sequence[str] = ()
    cache: bool = True


def run(request: Request, workdir: Path, *, workers: int, dry_run: bool) -> int:
    """Runs what is missing of a sweep, then prints its table. Returns the exit code.

    Args:
      request: what is varied, and how often.
      workdir: where runs, `results.csv`, `tables.md` and `figure.png` are kept.
      workers: runs at a time.
      dry_run: say what would run, and stop.

    Raises:
      ConfigError: a field, a value or a config is wrong; before anything is started.
      RunEnded: a run failed; the others were finished before, and are in the table.
    """
    import_all(request.imports)
    campaign = campaign_of(request)
    flags = [f"--import={name}" for name in request.imports]
    flags += [] if request.cache else ["--no-compilation-cache"]
    try:
        cells = [cell._replace(flags=tuple(flags)) for cell in cells_of(campaign, workdir)]
    except ConfigError as error:
        field = "--score" if error.field == "score" else error.field
        raise ConfigError(field, error.expected, error.got) from None

    def write(rows: Sequence[Mapping[str, str]]) -> None:
        write_sweep(campaign, rows, workdir, request.config)

    return run_missing(campaign, cells, workdir, write, workers, dry_run)


def campaign_of(request: Request) -> Campaign:
    """The campaign of a sweep: an arm for each setting, and the config's variant as its one task.

    Scores stay as they are. Raises ConfigError where fields and values do not make a sweep.
    """
    fields = [field for field, _ in request.over]
    taken = {"seed", "num_seeds"} | {field for field, _ in request.overrides}
    for i, field in enumerate(fields):
        if field in fields[:i] or field in taken:
            expected = "a field once, and not one of the seeds or of --config.FIELD"
            raise ConfigError("--over", expected, f"'{field}'")
    settings = _grid(request.over) if request.draws is None else draw(request.over, request.draws)
    name, variant = _split(request.config)
    campaign = Campaign(
        config=name,
        configs={},
        first_seed=request.first_seed,
        seeds=request.seeds,
        score=request.score,
        last=request.last,
        keep_checkpoints=request.keep_checkpoints,
        overrides=dict(request.overrides),
        groups={"": [variant]},
        arms=named(settings),
        scale={variant: [0.0, 1.0]},
    )
    campaign.check()
    return campaign


def _split(source: str) -> tuple[str, str]:
    """A config and its variant, "" where none is named; as `memjax.config_file.find_config` reads it."""
    path, colon, variant = source.partition(".py:")
    if colon:
        return f"{path}.py", variant
    name, _, variant = (source, "", "") if source.endswith(".py") else source.partition(":")
    return name, variant


def _grid(over: Sequence[tuple[str, Sequence[str]]]) -> list[Setting]:
    """All combinations, the last field varying quickest."""
    for field, values in over:
        for value in values:
            if _RANGE.fullmatch(value):
                raise ConfigError(f"--over {field}", "values (a range is for --random)", f"'{value}'")
    names = [field for field, _ in over]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*(v for _, v in over))]


def draw(over: Sequence[tuple[str, Sequence[str]]], count: int) -> list[Setting]:
    """Different settings drawn at random, each field by itself.

    The same words give the same settings, and a larger count those of a smaller one and more.

    Args:
      over: of each field its values as text, one of which is drawn. `LOW..HIGH` stands for a uniform draw
        between the two, ends included, and `LOW..HIGH:log` for one that is uniform in the logarithm. Whole
        ends give whole numbers.
      count: of settings.

    Returns:
      The settings.

    Raises:
      ConfigError: there are not so many, or a range is none.
    """
    most = math.prod(math.inf if any(map(_RANGE.fullmatch, values)) else len(values) for _, values in over)
    if count > most:
        raise ConfigError("--random", f"int <= {most}, the settings that there are", count)
    generator, settings = random.Random(0), []
    for _ in range(1_000 * count):  # a setting that was drawn before is drawn anew
        setting = {field: _value(field, generator.choice(values), generator) for field, values in over}
        if setting not in settings:
            settings.append(setting)
        if len(settings) == count:
            return settings
    raise ConfigError("--random", f"int <= {len(settings)}, since no others were found", count)


def _value(field: str, text: str, generator: random.Random) -> str:
    """The value itself, or one of a range."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return text
    low, high = float(found[1]), float(found[2])
    logarithmic = found[3] is not None
    if low >= high or (logarithmic and low <= 0.0):
        expected = "LOW..HIGH with LOW < HIGH" + (", both above 0" if logarithmic else "")
        raise ConfigError(f"--over {field}", expected, f"'{text}'")
    whole = all(re.fullmatch(r"[+-]?\d+", end) for end in (found[1], found[2]))
    if whole and not logarithmic:
        return str(generator.randint(int(low), int(high)))
    drawn = math.exp(generator.uniform(math.log(low), math.log(high))) if logarithmic else None
    drawn = generator.uniform(low, high) if drawn is None else drawn
    return str(round(drawn)) if whole else f"{drawn:.4g}"


def named(settings: Sequence[Setting]) -> dict[str, Setting]:
    """Settings by the names of their folders: fields by their last part, where that tells them apart."""
    found: dict[str, Setting] = {}
    for number, setting in enumerate(settings):
        lasts = [field.rpartition(".")[2] for field in setting]
        short = dict(zip(setting, lasts, strict=True)) if len(set(lasts)) == len(lasts) else {}
        text = ",".join(f"{short.get(field, field)}={value}" for field, value in setting.items())
        name = re.sub(r"[^\w.,=+-]", "_", text)[:LONGEST_NAME]
        found[f"{name} {number}" if name in found else name] = setting
    return found
