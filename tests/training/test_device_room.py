"""A train state that does not fit its device is refused before anything runs."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from memjax.envs import make_env
from memjax.memory import make_memory
from memjax.training import device_room as room
from memjax.training.device_room import check_room, rollout_bytes
from memjax.training.rollout import start, unroll
from memjax.types import ConfigError

FOUR_ROOMS = Path(__file__).parents[2] / "memjax" / "configs" / "four_rooms.py"


def state(*capacities, weights=0):
    """What a train state of R = 2 seeds with these memories looks like; allocates nothing."""

    def init():
        banks = {
            f"bank{i}": make_memory(n, 4, jnp.zeros(3), evict="fifo").init() for i, n in enumerate(capacities)
        }
        agent = {"weights": jnp.zeros(weights), "key": jax.random.key(0), "banks": banks}
        return {"agent": jax.tree.map(lambda x: jnp.stack([x, x]), agent)}

    return jax.eval_shape(init)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free."""
    return lambda size: monkeypatch.setattr(room, "device_bytes", lambda device: size)


def live_bytes(abstract):
    return sum(
        jnp.zeros(x.shape, x.dtype).nbytes for x in jax.tree.leaves(abstract) if x.dtype.name != "key<fry>"
    )


def test_a_state_that_fits_is_let_through(free):
    abstract = state(100, weights=1000)
    keys = 2 * 8
    free(live_bytes(abstract) + keys)
    check_room(abstract)
    free(live_bytes(abstract) + keys - 1)
    with pytest.raises(ConfigError):
        check_room(abstract)
    free(None)
    check_room(abstract)


def test_the_capacity_it_names_fits(free):
    """Said of the largest memory; a few slots in 100,000 go to counters that do not shrink."""
    free(20_000_000)
    with pytest.raises(
        ConfigError,
        match=r"^capacity of agent.banks.bank1: expected at most about [\d,]+ slots in agent.banks.bank1",
    ) as e:
        check_room(state(50_000, 200_000, weights=100_000))
    most = int(e.value.expected.split()[3].replace(",", ""))
    assert "19.07 MiB free on cpu:0, all memories scaled alike" in e.value.expected
    assert e.value.got.startswith("200,000 slots in a train state of ")
    check_room(state(most // 4, most - 10, weights=100_000))
    with pytest.raises(ConfigError):
        check_room(state(most // 4, most + 10, weights=100_000))


@dataclass(frozen=True)
class Part:
    """A section of a config."""

    capacity: int
    inner: Any = None


def test_the_field_that_says_the_capacity_is_named(free):
    free(20_000_000)
    sections = Part(50_000, {"no": "section"}), Part(7, Part(200_000))
    for section, field in zip(
        sections, ("capacity of agent.banks.bank1", "agent.inner.capacity"), strict=True
    ):
        with pytest.raises(ConfigError, match=f"^{field}: expected at most about"):
            check_room(state(50_000, 200_000), config=section)


def test_without_a_memory_it_names_the_device(free):
    free(1000)
    with pytest.raises(
        ConfigError, match=r"^device: expected room for a train state of 7.8. KiB, got 1000 bytes free"
    ):
        check_room(state(weights=1000))


def test_a_rollout_counts(free):
    abstract = state(weights=1000)
    needed = live_bytes(abstract) + 2 * 8
    free(needed + 500)
    check_room(abstract, 500)
    with pytest.raises(ConfigError, match=r"train state of 7.8. KiB and a rollout of 501 bytes, got .* free"):
        check_room(abstract, 501)
    with pytest.raises(
        ConfigError,
        match=r"^capacity of agent.banks.bank0: .* slots in agent.banks.bank0 .* a rollout of 1000 bytes",
    ):
        check_room(state(500), 1_000)


@pytest.mark.parametrize("id", ["gymnax/CartPole-v1", "gymnax/Pendulum-v1", "memjax/FourRooms-v0"])
def test_bytes_of_a_rollout_are_those_that_are_unrolled(id):
    """Oracle: the shapes of a rollout with an agent that adds nothing."""
    env = make_env(id, options={})
    zero = env.spec.zero_actions(3)
    agent = SimpleNamespace(
        rollout_steps=5,
        initial_carry=lambda batch: (),
        act=lambda *_: SimpleNamespace(action=zero, carry=(), extras={}),
    )
    rollout = jax.eval_shape(
        lambda k: unroll(env, agent, (), start(env, agent, 3, k), k)[1], jax.random.key(0)
    )
    assert rollout_bytes(env.spec, 5, 3, successors=True) == room._bytes(rollout)


def test_the_command_ends_with_one_line_and_code_2(tmp_path):
    words = [
        "train",
        f"--config={FOUR_ROOMS}",
        f"--workdir={tmp_path}/w",
        "--config.agent.bank.capacity=2000000000",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "memjax", *words], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("memjax: error: agent.bank.capacity: expected at most about ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_simulated_devices_share_the_memory_of_the_machine():
    program = (
        "import jax, numpy as np\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec as P\n"
        "from memjax.training.device_room import _bytes\n"
        "mesh = Mesh(np.array(jax.devices()), ('d',))\n"
        "x = lambda spec: jax.ShapeDtypeStruct((8, 5), 'float32', sharding=NamedSharding(mesh, spec))\n"
        "print(_bytes(x(P('d'))), _bytes(x(P())))"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=flags, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["160", "640"]
