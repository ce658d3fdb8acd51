"""`memjax collect`: a dataset in D4RL's layout from named policies, through envpool."""

import math
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memjax import __version__
from memjax.commands.named_policies import load_policy
from memjax.data.collect import UNKNOWN_LENGTH, Quotas, collect
from memjax.data.hdf5 import shown
from memjax.data.policies import BehaviourPolicy
from memjax.data.writer import Writer
from memjax.envs import backend_of, make_host_env, spec_of
from memjax.runs.imports import import_all
from memjax.runs.progress import Progress
from memjax.runs.workdir import package_version
from memjax.types import ConfigError, EnvSpec

LANES = 2  # pools stepped in turn
REPORT_SECONDS = 0.25
_PACKAGES = ("envpool", "numpy", "h5py", "jax")


@dataclass(frozen=True)
class Request:
    """What a dataset should hold. Either `steps` or `episodes` is None."""

    env: str  # "envpool/NAME"
    policies: tuple[str, ...]  # "random", an npz file or the directory of a run
    out: Path
    steps: int | None  # at least so many, or
    episodes: int | None  # exactly so many
    shares: tuple[float, ...]  # of each policy; (): equal ones
    mean: bool  # act without noise
    seed: int
    num_envs: int
    options: Mapping[str, Any]  # of the environment
    next_observations: bool
    compress: bool
    overwrite: bool


def run(request: Request, *, imports: Sequence[str] = ()) -> int:
    """Makes the dataset and prints what each policy gave. Returns the exit code."""
    import_all(imports)
    try:
        made = collect_dataset(request)
    except ConfigError as error:
        raise ConfigError(_word(error.field), error.expected, error.got) from None
    for entry in made["policies"]:
        counts = f"{entry['episodes']:,} episodes, {entry['steps']:,} steps"
        print(f"{entry['policy']}: {counts}, return {entry['return']:.4g} +- {entry['return_std']:.3g}")
    rate = made["stepped"] / made["seconds"]
    print(f"wrote {made['steps']:,} steps to {request.out} ({rate:,.0f} environment steps/s)")
    return 0


def _word(field: str) -> str:
    """What a user typed for a field of an environment; other fields as they are."""
    if field.startswith("env.options."):
        return f"--option {field.removeprefix('env.options.')}"
    return {"env.id": "--env", "env.num_envs": "--num-envs", "seed": "--seed"}.get(field, field)


def collect_dataset(request: Request) -> dict[str, Any]:
    """Makes the dataset of a request.

    Args:
      request: environment, policies, and how much is wanted.

    Returns:
      "policies": for each policy its name, sha256, steps, episodes, mean return and its deviation; "steps":
      those in the file; "stepped": those taken in the environments; "seconds": how long it took.

    Raises:
      ConfigError: for a mistake, before any environment is started.
    """
    if request.out.exists() and not request.overwrite:
        raise ConfigError(
            "--out", "a new file (or give --overwrite)", f"'{shown(request.out)}', which exists"
        )
    spec = spec_of(request.env, request.options)
    _check(request, spec)
    policies = [load_policy(name, spec, mean=request.mean) for name in request.policies]
    total = request.steps or request.episodes or 0
    longest = spec.max_episode_steps or UNKNOWN_LENGTH
    quotas = Quotas(_amounts(request, total), in_steps=request.steps is not None, longest=longest)
    began = time.perf_counter()
    with ExitStack() as stack:
        leave = stack.enter_context(_Leave().listening())
        options = {"next_observations": request.next_observations, "compress": request.compress}
        writer = stack.enter_context(Writer(request.out, policies=len(policies) > 1, **options))
        pools = _pools(request, stack)
        report = _Report(stack.enter_context(Progress(total)), quotas, leave)
        stepped = collect(pools, policies, quotas, writer.append, seed=request.seed, report=report)
        report.end()
        seconds = time.perf_counter() - began
        summary = [_summary(policy, tally) for policy, tally in zip(policies, quotas.tallies, strict=True)]
        writer.describe(_attributes(request, summary))
    return {"policies": summary, "steps": writer.steps, "seconds": seconds, "stepped": stepped}


def _check(request: Request, spec: EnvSpec) -> None:
    if backend_of(request.env) != "host":
        raise ConfigError("--env", "an environment of envpool (envpool/NAME)", repr(request.env))
    if len(spec.observation_shape) != 1:
        raise ConfigError("--env", "an environment with vectors as observations", f"{spec.id} with images")
    if len(set(request.policies)) < len(request.policies):
        raise ConfigError("--policy", "different ones (--shares weighs them)", "one of them twice")
    if request.shares and len(request.shares) != len(request.policies):
        expected = f"one share for each of {len(request.policies)} policies"
        raise ConfigError("--shares", expected, len(request.shares))
    if not all(0 < share < math.inf for share in request.shares):
        raise ConfigError("--shares", "numbers > 0", ", ".join(map(str, request.shares)))
    if (request.steps is None) == (request.episodes is None):
        raise ConfigError("--steps", "either --steps or --episodes", "both" if request.steps else "neither")


def _amounts(request: Request, total: int) -> list[int]:
    """The total divided by the shares, in whole numbers that add up."""
    shares = np.array(request.shares or [1.0] * len(request.policies))
    bounds = np.round(np.append(0, np.cumsum(shares / shares.sum())) * total).astype(int)
    amounts = np.diff(bounds).tolist()
    if min(amounts) < 1:
        raise ConfigError("--policy", "a share of at least 1 for each", f"{len(amounts)} of {total:,} in all")
    return amounts


def _pools(request: Request, stack: ExitStack) -> list[Any]:
    """Pools that share the environments evenly; no more environments than episodes."""
    num_envs = min(request.num_envs, request.episodes or request.num_envs)
    lanes, pools = min(LANES, num_envs), []
    for lane in range(lanes):
        first, end = (num_envs * i // lanes for i in (lane, lane + 1))
        which = {"num_envs": end - first, "first_env": first, "seed": request.seed}
        pools.append(make_host_env(request.env, options=request.options, **which))
        stack.callback(pools[-1].close)
    return pools


def _summary(policy: BehaviourPolicy, tally: Any) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "sha256": policy.digest,
        "steps": tally.steps,
        "episodes": len(tally.returns),
        "return": float(np.mean(tally.returns)),
        "return_std": float(np.std(tally.returns)),
    }


def _attributes(request: Request, summary: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "env_id": request.env,
        "env_options": dict(request.options),
        "seed": request.seed,
        "num_envs": request.num_envs,
        "actions": "mean" if request.mean else "sampled",
        "policies": list(summary),
        "memjax": __version__,
        "versions": {"python": platform.python_version()}
        | {name: package_version(name) for name in _PACKAGES},
    }


class _Leave:
    """Notes SIGTERM and SIGINT, and raises when it is called, so that nothing half made stays behind.

    Why not in the handler: an exception there may be lost in what a library calls back. A second signal does.
    """

    def __init__(self):
        self.number = 0

    def __call__(self) -> None:
        """Raises where a signal came."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)

    @contextmanager
    def listening(self) -> Iterator["_Leave"]:
        """Only the main thread may handle signals; one that is ignored stays so."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            before = {number: known for number, known in before.items() if known is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, known in before.items():
                signal.signal(number, known)

    def _note(self, number: int, _: Any) -> None:
        if self.number:
            self()
        self.number = number


class _Report:
    """Tells a progress line how far the quotas are, a few times a second; ends it all on a signal."""

    def __init__(self, progress: Progress, quotas: Quotas, leave: _Leave):
        self.progress, self.quotas, self.leave, self.next = progress, quotas, leave, 0.0

    def __call__(self, steps: int) -> None:
        """Shows the steps of the episodes so far, and of as many as are wanted if these are like them."""
        self.leave()
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + REPORT_SECONDS
        episodes = sum(len(tally.returns) for tally in self.quotas.tallies)
        if episodes and not self.quotas.in_steps:
            self.progress.total = round(steps / episodes * sum(self.quotas.amounts))
        self.progress.update(min(steps, max(0, self.progress.total - 1)))

    def end(self) -> None:
        """All episodes have ended."""
        self.progress.total = sum(tally.steps for tally in self.quotas.tallies)
        self.progress.update(self.progress.total)
