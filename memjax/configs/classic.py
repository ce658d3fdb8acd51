"""AdaMemento on classic control (CartPole, Acrobot, MountainCar): the quickest look at envpool.

Source: Barto, Sutton and Anderson 1983 (CartPole), Sutton 1996 (Acrobot), Moore 1990 (MountainCar), as
gymnasium defines them. AdaMemento (arXiv 2410.04498) does not name them; all values are our choice.

Expected: the best return of a CartPole episode is 500; `ppo` evaluated at 390 after 100,000 steps and at 499
after 300,000 (seed 0).
MountainCar pays nothing before the goal, which is what the memories and the intrinsic reward are for.
Cost: 300,000 steps; `smoke` takes seconds on two cores.

  memjax train --config=classic --workdir=runs/cartpole
  memjax train --config=classic:MountainCar+rnd --workdir=runs/mountain_car
  memjax train --config=classic:gymnax+ppo --workdir=runs/cartpole_jax
"""

from functools import partial

from ml_collections import ConfigDict

from memjax.configs import base

TASKS = {
    "CartPole": "envpool/CartPole-v1",
    "Acrobot": "envpool/Acrobot-v1",
    "MountainCar": "envpool/MountainCar-v0",
    "MountainCarContinuous": "envpool/MountainCarContinuous-v0",
    "gymnax": "gymnax/CartPole-v1",  # the same task, compiled with the learner
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    config = base.experiment("classic", TASKS["CartPole"])
    config.agent = base.adamemento()
    config.agent.bank.update(capacity=32_768, episode_steps=500, episodes_per_update=8)
    config.agent.label.min_return = -1e6  # returns may be negative: the window alone says what a success is
    config.agent.label.length_discount = 1.0
    return base.apply(config, variant, VARIANTS)


def _task(config: ConfigDict, id: str) -> None:
    """Another task."""
    config.env.id = id


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.num_envs = 16
    config.run.update(total_steps=8_192, eval_episodes=16, eval_envs=16)


VARIANTS: dict[str, base.Variant] = {
    **base.VARIANTS,
    **{name: partial(_task, id=id) for name, id in TASKS.items()},
    "smoke": _smoke,
}
