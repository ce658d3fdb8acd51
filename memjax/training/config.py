"""The config of a training run: its sections, and the checked, frozen result that `train` runs.

Everything a user can get wrong in it ends as one `ConfigError`; nothing is adjusted on the way.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from ml_collections import ConfigDict

from memjax.envs import backend_of
from memjax.runs.places import as_path
from memjax.runs.workdir import CONFIG_FILE, no_run, read_json
from memjax.schema import (
    Between,
    Fraction,
    Later,
    NonNegativeInt,
    OpenSection,
    PositiveInt,
    UserPath,
    later_fields,
    one_of,
    parse,
)
from memjax.training.sinks import resolve_sinks
from memjax.types import ConfigError, EnvSpec, within

LARGEST_COMPILED_INT = 2**31 - 1


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and how many copies of it step together."""

    id: str  # "gymnax/CartPole-v1", "envpool/Pong-v5"; the prefix names the backend
    num_envs: PositiveInt  # B, per seed
    options: OpenSection  # the environment's own, checked by its adapter


@dataclass(frozen=True)
class DataConfig:
    """The recorded episodes that an offline agent learns from, and the experts that a memory is filled from.

    A dataset is a D4RL file, a Minari folder or file, or the id of a Minari dataset, which is fetched where
    it is not on this machine.
    """

    path: UserPath  # what the agent learns from
    best: Fraction  # share of its episodes that count, those of the highest return
    experts: UserPath  # "": none. The same as `path`: random episodes of the data themselves, a control
    num_experts: NonNegativeInt  # episodes taken of it
    expert_seed: NonNegativeInt  # which ones
    mix: Literal["none", "uniform", "share", "only"]  # whether the agent learns from those directly as well
    mix_share: Fraction  # of every batch, with "share"
    encoder_steps: NonNegativeInt  # of `path`, that a memory's autoencoder learns from beside the experts
    holdout: Fraction  # of the episodes of `path`, kept from learning, for the memory's utilities
    credit_every: NonNegativeInt  # updates between two lessons of the utilities from these; 0: never
    keep_unfinished: bool  # the last episode, where the data end within it
    max_episode_steps: NonNegativeInt  # where the data do not tell how long an episode may be; 0: they do
    cache: UserPath  # a folder to map converted arrays from, for data larger than memory; "": read them whole
    stream: bool  # keep the data on the host and send windows, for data larger than the device

    def check(self) -> None:
        """Raises ConfigError where fields do not fit each other."""
        if not self.path:
            raise ConfigError("path", "a D4RL file, or a Minari folder or id", "''")
        if self.experts and not self.num_experts:
            raise ConfigError("num_experts", "int >= 1, of data.experts", 0)
        if self.mix != "none" and not self.experts:
            raise ConfigError("experts", f"a dataset, as mix is {self.mix!r}", "''")
        if self.credit_every and not self.holdout:
            raise ConfigError("holdout", "above 0, as credit_every is", self.holdout)
        if not self.best or (self.best < 1.0 and self.experts == self.path):
            expected = "1, as experts are episodes of the data" if self.best else "above 0"
            raise ConfigError("best", expected, self.best)
        if self.holdout == 1.0 or (self.holdout and self.experts == self.path):
            expected = "below 1" if self.holdout == 1.0 else "0, as experts are episodes of the data"
            raise ConfigError("holdout", expected, self.holdout)


@dataclass(frozen=True)
class RunConfig:
    """How long to train, and what to do on the way. Iteration: one rollout and one update."""

    total_steps: PositiveInt  # environment steps per seed; updates where the agent learns offline
    eval_every: NonNegativeInt  # iterations between evaluations; 0: never
    eval_episodes: PositiveInt  # episodes per evaluation, seed and policy
    eval_envs: PositiveInt  # environments they run in
    checkpoint_every: NonNegativeInt  # iterations between checkpoints; 0: at the end alone
    keep_checkpoints: PositiveInt  # the newest ones are kept
    log_every: PositiveInt  # iterations per compiled chunk, and per line of metrics
    stop_on_nan: bool  # end the run at the first value that is not finite
    pools: PositiveInt  # host environments: pools stepped in turn; 1 where the environment is in JAX
    overlap: bool  # host environments: collect the next rollout, one update stale, while learning
    # Several devices: each has all slots, or its share of them.
    memory: Annotated[Literal["replicated", "sharded"], Later("replicated")]

    def check(self) -> None:
        """Raises ConfigError where an interval does not end with a chunk."""
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise ConfigError(name, f"a multiple of log_every ({self.log_every})", getattr(self, name))


@dataclass(frozen=True)
class _Top:
    experiment: str
    seed: Annotated[int, Between(0, 2**31 - 1)]
    num_seeds: PositiveInt
    env: Mapping[str, Any]
    data: Annotated[Mapping[str, Any] | None, Later(None)]
    agent: Mapping[str, Any]
    run: Mapping[str, Any]
    sinks: Annotated[Mapping[str, Any] | None, Later(None)]


@dataclass(frozen=True)
class ResolvedConfig:
    """A checked config: what `train` runs."""

    experiment: str
    seed: int  # of the first run
    num_seeds: int  # independent runs trained side by side
    env: EnvConfig
    agent_name: str
    agent: Any  # the agent's own section
    run: RunConfig
    raw: Mapping[str, Any]  # the same as plain values, for config.json
    spec: EnvSpec  # of `env`
    backend: Literal["jax", "host"]  # where `env` runs
    data: DataConfig | None = None  # what an offline agent learns from
    sinks: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # its section, by name

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration of one seed; offline, where one update is one, 1."""
        return self.env.num_envs * self.agent.rollout_steps

    @property
    def iterations(self) -> int:
        """Iterations until every seed has taken at least `run.total_steps`."""
        return math.ceil(self.run.total_steps / self.steps_per_iteration)

    @property
    def later(self) -> dict[str, Any]:
        """The fields that came later, by path, with the values that older runs have."""
        return later_fields(type(self.agent), "agent") | later_fields(RunConfig, "run")


def resolve(
    config: Mapping[str, Any] | ConfigDict,
    *,
    agents: Mapping[str, Any] | None = None,
    spec_of: Callable[[str, Mapping[str, Any]], Any] | None = None,
) -> ResolvedConfig:
    """Checks a config and freezes it, before anything is allocated or compiled.

    Args:
      config: what a config file's `get_config` returns, with overrides.
      agents: the agents by name; None: `memjax.agents.AGENTS`.
      spec_of: (id, options) -> spec of an environment; None: `memjax.envs.spec_of`.

    Returns:
      The checked config.

    Raises:
      ConfigError: a field is unknown, missing or wrong, fields do not fit each other, or JAX is set to 64
        bits.
    """
    if jax.config.read("jax_enable_x64"):
        raise ConfigError("jax_enable_x64 (JAX_ENABLE_X64)", "off: training computes with 32 bits", "on")
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    top = parse(_Top, values, "")
    env = parse(EnvConfig, top.env, "env")
    run = parse(RunConfig, top.run, "run")
    if env.num_envs % run.pools:
        raise ConfigError("run.pools", f"a divisor of env.num_envs ({env.num_envs})", run.pools)
    agents = _agents() if agents is None else agents
    agent = _agent(top.agent, env.num_envs, agents)
    data = _data(top, env, agents)
    if run.memory == "sharded" and not agents[top.agent["name"]].shards:
        names = ", ".join(sorted(name for name, entry in agents.items() if entry.shards))
        expected = f"'replicated' with agent '{top.agent['name']}' ('sharded' with {names})"
        raise ConfigError("run.memory", expected, f"'{run.memory}'")
    _check_counters(top, env, agent, run)
    spec_of = _spec_of() if spec_of is None else spec_of
    with within("env."):
        spec = spec_of(env.id, env.options)
    sections = {"env": env, "agent": agent, "run": run} | ({} if data is None else {"data": data})
    raw = {"experiment": top.experiment, "seed": top.seed, "num_seeds": top.num_seeds}
    raw |= {name: dataclasses.asdict(section) for name, section in sections.items()}
    raw["agent"] = {"name": top.agent["name"]} | raw["agent"]
    sinks = resolve_sinks(top.sinks)
    raw["sinks"] = {name: dataclasses.asdict(section) for name, section in sinks.items()}
    return ResolvedConfig(
        experiment=top.experiment,
        seed=top.seed,
        num_seeds=top.num_seeds,
        env=env,
        agent_name=top.agent["name"],
        agent=agent,
        run=run,
        raw=_plain(raw),
        spec=spec,
        backend=backend_of(env.id),
        data=data,
        sinks=sinks,
    )


def _agent(section: Mapping[str, Any], num_envs: int, agents: Mapping[str, Any]) -> Any:
    """The agent's own section, checked by itself and against the number of environments."""
    name = section.get("name")
    if not isinstance(name, str) or name not in agents:
        got = "nothing: the field is missing" if name is None else f"{name!r} (--import adds your own)"
        raise ConfigError("agent.name", one_of(name, sorted(agents)), got)
    known = agents[name].config
    has_name = "name" in {field.name for field in dataclasses.fields(known)}
    values = {key: value for key, value in section.items() if key != "name" or has_name}
    agent = parse(known, values, "agent")
    _check_compiled(dataclasses.asdict(agent), "agent")
    check_batch = getattr(agent, "check_batch", None)
    if check_batch is not None:
        with within("agent."):
            check_batch(num_envs)
    return agent


def _check_counters(top: _Top, env: EnvConfig, agent: Any, run: RunConfig) -> None:
    """Raises ConfigError for more iterations, or larger seeds, than a compiled program can count."""
    per_iteration = env.num_envs * agent.rollout_steps
    most = LARGEST_COMPILED_INT // run.log_every * run.log_every  # they are rounded up to a multiple of it
    if run.total_steps > most * per_iteration:
        expected = f"at most {most * per_iteration:,}, as iterations are counted in 32 bits"
        raise ConfigError("run.total_steps", expected, f"{run.total_steps:,}")
    if top.seed + top.num_seeds - 1 > LARGEST_COMPILED_INT:
        most = LARGEST_COMPILED_INT - top.seed + 1
        raise ConfigError("num_seeds", f"at most {most:,} seeds from {top.seed} on", f"{top.num_seeds:,}")


def _check_compiled(value: Any, path: str) -> None:
    """Raises ConfigError for an integer that a compiled program, whose integers have 32 bits, cannot hold."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_compiled(each, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            _check_compiled(each, f"{path}[{i}]")
    elif isinstance(value, int) and abs(value) > LARGEST_COMPILED_INT:
        raise ConfigError(path, "a number within 32 bits", value)


def _data(top: _Top, env: EnvConfig, agents: Mapping[str, Any]) -> DataConfig | None:
    """The section of an offline agent; no other may have one."""
    name = top.agent["name"]
    if agents[name].learns_from == "rollouts":
        if top.data is not None:
            raise ConfigError("data", f"no such section with agent '{name}', which learns by acting", "one")
        return None
    if top.data is None:
        got = "nothing: the section is missing"
        raise ConfigError("data", f"a section of fields for agent '{name}', which learns offline", got)
    if env.num_envs != 1:
        got = env.num_envs
        raise ConfigError("env.num_envs", "1 with an agent that learns offline (run.eval_envs evaluate)", got)
    return parse(DataConfig, top.data, "data")


def _agents() -> Mapping[str, Any]:
    from memjax.agents import AGENTS

    return AGENTS


def _spec_of() -> Callable[[str, Mapping[str, Any]], Any]:
    from memjax.envs import spec_of

    return spec_of


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples become lists."""
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:  # the options of an environment are the only unchecked values
        raise ConfigError(
            "env.options", "finite numbers, text, None, lists and sections of them", error
        ) from None


def load_workdir_config(workdir: Path, **registries: Any) -> ResolvedConfig:
    """The config of the run in `workdir`. Raises ConfigError where there is none, or it is not readable."""
    path = as_path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise no_run(workdir, f"the directory of a run, with {CONFIG_FILE} in it")
    stored = read_json(path)
    with within(f"{path}: "):
        return resolve(stored, **registries)
