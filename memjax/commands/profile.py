"""`memjax profile`: where the time of an iteration goes, on one page."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from memjax.commands.train import resolve_training
from memjax.runs.imports import import_all
from memjax.training.config import ResolvedConfig
from memjax.training.profile import HostProfile, Profile, profile, profile_host
from memjax.types import ConfigError


def run(
    source: str,
    overrides: Sequence[tuple[str, str]],
    *,
    imports: Sequence[str] = (),
    out: Path | None = None,
    chunks: int = 5,
) -> int:
    """Prints the page of one config. Returns the exit code.

    Args:
      source: the config, as `load_config` takes it.
      overrides: (field, text) pairs.
      imports: modules and files of the user's own.
      out: folder of the trace; None: it is removed again.
      chunks: compiled chunks to time.

    Raises:
      ConfigError: for a mistake, before anything is allocated or compiled.
    """
    import_all(imports)
    config = resolve_training(source, overrides)
    if config.data is not None and config.data.stream:
        raise ConfigError("data.stream", "False in a profile, whose updates are one program", True)
    with tempfile.TemporaryDirectory() as folder:
        print(page(config, Path(folder) if out is None else out, chunks))
    if out is not None:
        print(f"trace in {out}")
    return 0


def page(config: ResolvedConfig, folder: Path, chunks: int) -> str:
    """The page, as text."""
    # Why here: it takes a second to import, and a mistake in the config should not wait for that.
    from memjax.training.anakin import Anakin
    from memjax.training.offline import Offline
    from memjax.training.sebulba import Sebulba
    from memjax.training.train import build

    program = build(config)
    try:
        if isinstance(program, Sebulba):
            found = profile_host(program, folder, chunks=chunks)
            return "\n".join([_head(config, found), *_host_table(config, found)])
        assert isinstance(program, Anakin | Offline)
        state: Any = program.init()
        arguments, iterations = program.arguments(state), config.run.log_every
        found = profile(program.compiled_chunk(), arguments, folder, iterations=iterations, chunks=chunks)
        return "\n".join([_head(config, found), *_table(found), *_costs(found)])
    finally:
        program.close()


def _head(config: ResolvedConfig, found: Profile | HostProfile) -> str:
    steps, device = config.steps_per_iteration * config.num_seeds, jax.devices()[0]
    what = "updates" if config.data is not None else "steps"
    seeds = f"{config.num_seeds} seeds, " if config.num_seeds > 1 else ""
    return (
        f"{config.env.id}, {config.agent_name}, {seeds}on {jax.device_count()} x {device.device_kind}\n"
        f"compiled in {found.compile_seconds:.1f} s\n"
        f"an iteration of {steps:,} {what}: {_time(found.seconds)}, {steps / found.seconds:,.0f} a second\n"
    )


def _table(found: Profile) -> list[str]:
    if not found.parts:
        return ["the trace names no operations on this device", ""]
    return [*_rows(found.parts, found.seconds, "share of the time of operations"), ""]


def _host_table(config: ResolvedConfig, found: HostProfile) -> list[str]:
    actor = {"environment": found.environment, "policy": found.policy}
    learner = {"waits for rollouts": found.waiting, "learning": found.learning}
    lines = []
    for who, parts in (("the actor", actor), ("the learner", learner)):
        shares = {name: x / found.seconds for name, x in parts.items()}
        lines += [*_rows(shares, found.seconds, f"share of {who}'s time"), ""]
    return [*lines, "both work at the same time" if config.run.overlap else "they take turns"]


def _rows(shares: Mapping[str, float], seconds: float, title: str) -> list[str]:
    width = max(len(name) for name in shares)
    lines = [f"{'part':<{width}}  {title}"]
    return lines + [f"{name:<{width}}  {x:6.1%}  {_time(x * seconds):>9}" for name, x in shares.items()]


def _costs(found: Profile) -> list[str]:
    rate = found.product_flops / found.seconds
    moved = ", ".join(f"{kind} {size:,.0f}" for kind, size in found.exchanged.items())
    exchange = [f"bytes that an iteration's collectives leave on each device: {moved}"] if moved else []
    return [
        f"matrix products: {found.product_flops:.3g} operations an iteration, {rate:.3g} a second",
        f"XLA's count of the chunk, the body of each loop once: {found.flops:.3g} operations, "
        f"{found.bytes:.3g} bytes read and written",
        f"beside its state the chunk needs {found.temporary_bytes:.3g} bytes",
        *exchange,
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
