"""The training loop: builds the program, then runs chunks of it, evaluates, saves and reports.

There is one loop for the three ways of training: environments in JAX (`memjax.training.anakin`), envpool
beside the device (`memjax.training.sebulba`), and recorded episodes (`memjax.training.offline`).
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.runs.checkpoint import Checkpoints
from memjax.runs.imports import Import, write_imports
from memjax.runs.metrics import MetricsWriter
from memjax.runs.places import as_path
from memjax.runs.progress import Progress
from memjax.runs.same_run import identity
from memjax.runs.signals import StopOnSignal
from memjax.runs.workdir import CHECKPOINTS, CONFIG_FILE, open_workdir, read_json, write_manifest
from memjax.training import hosts
from memjax.training.anakin import Anakin
from memjax.training.config import ResolvedConfig
from memjax.training.device_room import check_room, rollout_bytes
from memjax.training.finite import AgentCheck, check_finite
from memjax.training.program import Program
from memjax.training.sinks import check_sinks, open_sinks


def build(config: ResolvedConfig, *, learns: bool = True) -> Program:
    """Builds the program of a checked config; compiles nothing.

    Args:
      config: the checked config.
      learns: False builds a program that can only restore and act, and reads no dataset.

    Returns:
      The program.

    Raises:
      ConfigError: parts of the config do not fit each other, or the state does not fit on the device.
    """
    program = _program(config, learns)
    check_room(program.abstract_state(), _rollout_bytes(config) if learns else 0, config.agent)
    return program


def _rollout_bytes(config: ResolvedConfig) -> int:
    """Bytes of a rollout on one device; on a CPU, whose devices share one memory, on all of them."""
    if config.data is not None:
        return 0
    in_jax = config.backend == "jax"
    each = rollout_bytes(config.spec, config.agent.rollout_steps, config.env.num_envs, successors=in_jax)
    shared = jax.default_backend() == "cpu"
    return each * config.num_seeds // (jax.device_count() if in_jax and not shared else 1)


def _program(config: ResolvedConfig, learns: bool) -> Program:
    if config.data is not None:
        from memjax.training.offline import Offline

        return Offline(config, learns=learns)
    if config.backend == "host":
        from memjax.training.sebulba import Sebulba

        return Sebulba(config)
    return Anakin(config)


def train(
    config: ResolvedConfig, workdir: Path, *, resume: bool = True, imports: Sequence[Import] = ()
) -> int:
    """Trains to the end, from the beginning or from the newest checkpoint in `workdir`.

    Args:
      config: the checked config.
      workdir: the folder of the run; made where there is none.
      resume: whether to continue a run that is there.
      imports: code that was imported for the run; recorded in `workdir` for later commands.

    Returns:
      The exit code: 0, done; 130 or 143, a signal came and the state is saved. In a run of several processes,
      a signal to any of them ends all.

    Raises:
      ConfigError: the user made a mistake.
      Diverged: a value is no longer finite.
    """
    check_sinks(config.sinks)
    program = build(config)
    first = hosts.is_first()
    own = open_workdir(workdir, config.raw, resume=resume, later=config.later)
    with own if first else contextlib.nullcontext(as_path(workdir)) as workdir, StopOnSignal() as stop:
        if first:
            write_imports(workdir, imports)
        hosts.agree(0)  # the others wait until the workdir has been found to be this run's
        try:
            run = identity(read_json(workdir / CONFIG_FILE))
            with Checkpoints(workdir / CHECKPOINTS, config.run.keep_checkpoints, run=run) as checkpoints:
                return _run(program, config, workdir, checkpoints, stop)
        finally:
            program.close()


def _run(
    program: Program, config: ResolvedConfig, workdir: Path, checkpoints: Checkpoints, stop: StopOnSignal
) -> int:
    restored = checkpoints.restore_latest(program.abstract_state())
    state = program.init() if restored is None else program.opened(restored.state)
    done = 0 if restored is None else restored.step // config.steps_per_iteration
    total, per_iteration = program.iterations, config.steps_per_iteration
    if hosts.is_first():
        write_manifest(workdir, config.raw, program.not_reproducible)
        _say_where(workdir, restored is not None, done * per_iteration, done >= total)
    if done < total:
        checkpoints.rehearse()
    saved, check = done, AgentCheck(state.agent) if config.run.stop_on_nan else None
    with _reports(config, workdir, total * per_iteration, done * per_iteration) as (writer, progress):

        def save() -> None:
            if check is not None:
                check(state.agent, done * per_iteration)
            writer.flush()
            checkpoints.save(done * per_iteration, program.stored(state))

        while done < total and not hosts.agree(stop.exit_code):
            began, waited = time.monotonic(), program.waited
            state, metrics = program.chunk(state)
            check_finite(metrics, done, per_iteration, config.run.stop_on_nan)
            done += config.run.log_every
            seconds = time.monotonic() - began
            values = summarize(metrics)
            if config.run.eval_every and (done % config.run.eval_every == 0 or done == total):
                values |= program.evaluate(state, config.run.eval_episodes)
            writer.write(done * per_iteration, values)
            speed = config.run.log_every * per_iteration * config.num_seeds / seconds
            timing = {"steps_per_second": speed}
            if program.waited:
                timing["learner_waits"] = (program.waited - waited) / seconds
            writer.write_timing(done * per_iteration, timing)
            progress.update(done * per_iteration, values)
            due = config.run.checkpoint_every and done % config.run.checkpoint_every == 0
            if due and done < total:
                save()
                saved = done
        if done > saved:
            save()
    return hosts.agree(stop.exit_code)


def _say_where(workdir: Path, restored: bool, step: int, finished: bool) -> None:
    """Tells the user where the run stands and what takes long."""
    if restored:
        what = "finished; nothing is left to do" if finished else "resuming"
        print(f"memjax: {workdir} is at step {step:,}: {what}", file=sys.stderr)
    if not finished:
        print("memjax: compiling; seconds if it was compiled before, up to a minute if not", file=sys.stderr)


class _Unwritten:
    """In place of a MetricsWriter in a process that writes no metrics."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


@contextlib.contextmanager
def _reports(
    config: ResolvedConfig, workdir: Path, total: int, start: int
) -> Iterator[tuple[MetricsWriter | _Unwritten, Progress]]:
    """Metrics and progress of a run; of several processes, the first alone writes and shows them."""
    if hosts.is_first():
        sinks = open_sinks(config.sinks, workdir, config.raw, after=start, first_seed=config.seed)
        with MetricsWriter(workdir, after=start, sinks=sinks) as writer, Progress(total, start) as progress:
            yield writer, progress
    else:
        with open(os.devnull, "w") as nowhere, Progress(total, start, nowhere) as progress:
            yield _Unwritten(), progress


def summarize(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics [R, iterations] of a chunk to one value [R] each: counts summed, the rest averaged.

    Means over episodes are weighed by episodes; NaN where none ended.
    """
    rest = {name: x.mean(axis=1) for name, x in metrics.items() if not name.startswith("train/")}
    totals = {name: x.sum(axis=1) for name, x in metrics.items() if name.startswith("train/")}
    if not totals:  # learned offline: no episodes
        return rest
    episodes = totals.pop("train/episodes")
    falls = {name: totals.pop(name) for name in ("train/falls",) if name in totals}
    with np.errstate(invalid="ignore"):
        means = {name: x / np.where(episodes > 0, episodes, np.nan) for name, x in totals.items()}
    return {"train/episodes": episodes} | falls | means | rest
