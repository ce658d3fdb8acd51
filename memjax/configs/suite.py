"""AdaMemento on a suite of small tasks in JAX, sparse and dense, with one setting for all of them.

Source: AdaMemento (arXiv 2410.04498) claims gains on Atari and MuJoCo; this suite is ours. Four Rooms is
memjax's; DeepSea (Osband et al. 2020), FrozenLake, MountainCar, CartPole, Acrobot, Pendulum and MinAtar's
Breakout (Young and Tian 2019) are gymnax's; Unlock, DoorKey, MemoryS and LockedRoom are xminigrid's
(pip install 'memjax[suites]').

    memjax train --config=suite:DeepSea10 --workdir=runs/deep_sea --config.num_seeds=5
    memjax train --config=suite:DoorKey5+rnd --workdir=runs/door_key_rnd

Further variants: the other tasks, full (all parts), literal (and the gate by confidence alone), smoke, all of
base.VARIANTS. A task sets the environment, the number of steps, and whether returns may be negative where the
task is done well; nothing else.

Expected: experiments/results/suite.
Wall time: half a minute to two minutes for ten seeds on a 2-core CPU, compilation included.
"""

from functools import partial
from typing import NamedTuple

from ml_collections import ConfigDict

from memjax.configs import base


class Task(NamedTuple):
    """One task of the suite."""

    id: str
    options: dict
    min_return: float = 0.0  # below it nothing is a success, whatever the window says
    total_steps: int = 150_000


NEGATIVE = -1e6  # returns are negative throughout: the window alone says what a success is

SPARSE = {
    "FourRooms": Task("memjax/FourRooms-v0", {"random_start": False, "max_steps_in_episode": 50}),
    "FourRoomsGoals": Task("memjax/FourRooms-v0", {"random_goal": True, "random_start": False}),
    "DeepSea10": Task("gymnax/DeepSea-bsuite", {"size": 10}),
    "DeepSea20": Task("gymnax/DeepSea-bsuite", {"size": 20}),
    "FrozenLake8": Task("gymnax/FrozenLake-misc", {"map_name": "8x8"}),
    "Unlock": Task("xminigrid/MiniGrid-Unlock", {}),
    "DoorKey5": Task("xminigrid/MiniGrid-DoorKey-5x5", {}, total_steps=300_000),
    "DoorKey8": Task("xminigrid/MiniGrid-DoorKey-8x8", {}, total_steps=1_000_000),
    "MemoryS8": Task("xminigrid/MiniGrid-MemoryS8", {}, total_steps=1_000_000),
    "LockedRoom": Task("xminigrid/MiniGrid-LockedRoom", {}, total_steps=1_000_000),
    "MountainCar": Task("gymnax/MountainCar-v0", {}, NEGATIVE),
    "MountainCarContinuous": Task("gymnax/MountainCarContinuous-v0", {}),
}
DENSE = {
    "CartPole": Task("gymnax/CartPole-v1", {}, NEGATIVE),
    "Acrobot": Task("gymnax/Acrobot-v1", {}, NEGATIVE),
    "Pendulum": Task("gymnax/Pendulum-v1", {}, NEGATIVE),
    "Breakout": Task("gymnax/Breakout-MinAtar", {}, NEGATIVE, total_steps=300_000),
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    task = SPARSE["FourRooms"]
    config = base.experiment("suite", task.id, **task.options)
    # Iterations of 4,096 steps. Evaluations are few, as those of three policies over long episodes cost more
    # than what is trained between them.
    config.run.update(log_every=4, eval_every=12, eval_episodes=32, eval_envs=32, checkpoint_every=0)
    config.run.total_steps = task.total_steps
    config.agent = base.illustration()
    config.agent.bank.update(capacity=8_192, episode_steps=250, key_dim=64)
    config.agent.bank.fade_rollouts = 10  # once successes come, the bonus keeps the policy from them
    # The memory tells when successes come and does not act: here its help is not shown to pay
    # (experiments/results/parts). With variant "full" it acts, in few episodes, as often as that has paid.
    config.agent.gate.update(enabled=False, most_share=0.25)
    # The policy learns from its own steps
    config.agent.ppo.offpolicy = "mask"
    return base.apply(config, variant, VARIANTS)


def _task(config: ConfigDict, task: Task) -> None:
    """Another task."""
    config.env.id, config.env.options = task.id, ConfigDict(task.options)
    config.run.total_steps = task.total_steps
    if "label" in config.agent:
        config.agent.label.min_return = task.min_return
        if task.min_return < 0.0:
            # Why: where returns are negative, a discount by length would favour long episodes.
            config.agent.label.length_discount = 1.0


def _full(config: ConfigDict) -> None:
    """All parts: the memory acts in few episodes, as often as that has paid."""
    config.agent.gate.update(enabled=True, measured=True)


def _literal(config: ConfigDict) -> None:
    """As the paper words it: the gate opens by confidence alone, in every episode; the bonus stays."""
    config.agent.gate.update(enabled=True, measured=False)
    config.agent.bank.fade_rollouts = 0
    config.agent.ppo.offpolicy = "bc"


def _sil(config: ConfigDict) -> None:
    """PPO with self-imitation, its memory sized for longer episodes."""
    base.with_agent(config, "sil")
    config.agent.imitation.update(episode_steps=250)


VARIANTS: dict[str, base.Variant] = {
    **base.VARIANTS,
    **{name: partial(_task, task=task) for name, task in (SPARSE | DENSE).items()},
    "sil": _sil,
    "full": _full,
    "literal": _literal,
    "smoke": base.smoke,
}
