"""A stub of an agent and an environment, and a config of both, for what runs any agent."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest

from memjax.config_file import load_config
from memjax.schema import Fraction, PositiveFloat, PositiveInt, Widths
from memjax.types import ConfigError, Discrete, EnvSpec

CONFIG_FILE = """
from ml_collections import ConfigDict
from memjax.types import ConfigError

def get_config(variant=""):
    if variant not in ("", "smoke"):
        raise ConfigError("--config", "no variant or 'smoke'", repr(variant))
    steps = 64 if variant == "smoke" else 4096
    return ConfigDict(dict(
        experiment="stub", seed=0, num_seeds=2,
        env=dict(id="memjax/Stub", num_envs=4, options=dict(size=3)),
        agent=dict(name="stub", rollout_steps=8, learning_rate=1e-3, hidden=(16, 16), evict="fifo",
                   capacity=32, k=4, threshold=None, normalize=True, step_size=0.5, minibatches=4),
        run=dict(total_steps=steps, eval_every=4, eval_episodes=8, eval_envs=4, checkpoint_every=8,
                 keep_checkpoints=2, log_every=4, stop_on_nan=True, pools=1, overlap=False),
    )).lock()
"""


@dataclass(frozen=True)
class StubConfig:
    rollout_steps: PositiveInt
    learning_rate: PositiveFloat
    hidden: Widths
    evict: Literal["fifo", "lru"]
    capacity: PositiveInt
    k: PositiveInt
    threshold: float | None
    normalize: bool
    step_size: Fraction
    minibatches: PositiveInt

    def check(self):
        if self.k > self.capacity:
            raise ConfigError("k", f"int <= capacity ({self.capacity})", self.k)

    def check_batch(self, num_envs):
        if num_envs * self.rollout_steps % self.minibatches:
            raise ConfigError(
                "minibatches", f"a divisor of the batch {num_envs * self.rollout_steps}", self.minibatches
            )


def stub_spec_of(id, options):
    if id != "memjax/Stub":
        raise ConfigError("env.id", "a known environment (did you mean 'memjax/Stub'?)", repr(id))
    for name in options:
        if name != "size":
            raise ConfigError(
                f"env.options.{name}", "a known option (did you mean 'size'?)", "an unknown option"
            )
    return EnvSpec(id, (3,), "float32", Discrete(2), 10, False)


AGENTS = {
    "stub": SimpleNamespace(config=StubConfig, make=None, learns_from="rollouts"),
    "ppo": SimpleNamespace(config=StubConfig, make=None, learns_from="rollouts"),
}


@pytest.fixture(scope="session")
def registries():
    """The stub agent and environment, as `resolve` takes them."""
    return dict(agents=AGENTS, spec_of=stub_spec_of)


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "stub.py"
    file.write_text(CONFIG_FILE)
    return file


@pytest.fixture(scope="session")
def config_values(tmp_path_factory):
    """The stub's config as plain values; copy before a change."""
    file = tmp_path_factory.mktemp("config") / "stub.py"
    file.write_text(CONFIG_FILE)
    return load_config(str(file)).to_dict()
