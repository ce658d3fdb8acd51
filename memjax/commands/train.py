"""`memjax train`: from the name of a config to a finished run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from memjax.commands.compilation_cache import use_compilation_cache
from memjax.commands.parser import without_traceback
from memjax.config_file import load_config
from memjax.runs.imports import import_for_run
from memjax.training.config import ResolvedConfig, resolve
from memjax.training.hosts import Cluster, join, together
from memjax.types import ConfigError, EnvSpec


def run(
    source: str,
    overrides: Sequence[tuple[str, str]],
    workdir: Path,
    *,
    imports: Sequence[str] = (),
    resume: bool = True,
    cache: bool = True,
    cluster: Cluster = Cluster(),  # noqa: B008 - a constant
) -> int:
    """Trains to the end, or on from the newest checkpoint in `workdir`. Returns the exit code.

    Args:
      source: the config, as `load_config` takes it.
      overrides: (field, text) pairs.
      workdir: the directory of the run.
      imports: modules and files of the user's own, as `import_for_run` takes them.
      resume: False refuses a workdir that already has checkpoints.
      cache: whether compiled programs are kept on disk.
      cluster: the processes that train the run together, see `memjax.training.hosts`.

    Raises:
      ConfigError: for a mistake, before anything is allocated or compiled.
      RunEnded: where the run cannot go on.
    """

    def launch() -> int:
        with use_compilation_cache(cache):  # before anything is compiled, small as it may be
            imported = import_for_run(workdir, imports)
            config = resolve_training(source, overrides)
            # Why here: it takes a second to import, and a mistake in the config should not wait for that.
            from memjax.training.train import train

            return train(config, workdir, resume=resume, imports=imported)

    if not join(cluster):
        return launch()
    return together(cluster, lambda: without_traceback(launch))


def resolve_training(
    source: str, overrides: Sequence[tuple[str, str]], spec_of: Callable[..., EnvSpec] | None = None
) -> ResolvedConfig:
    """The checked config that a user names; `spec_of` as in `resolve`.

    Raises ConfigError, also for a config of `memjax remember`.
    """
    values = load_config(source, overrides)
    if "language" in values:
        expected = "a config of `memjax train`, with a section 'agent'"
        raise ConfigError("--config", expected, f"'{source}', which is one of `memjax remember`")
    return resolve(values, spec_of=spec_of)
